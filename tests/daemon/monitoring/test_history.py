"""What a person sees of a stream's last minute."""

from __future__ import annotations

import threading

import pytest

from qzd_client.messages import Box, StreamState
from qzd_daemon.monitoring.history import LABELS, REASONS, SECONDS, History
from support.clock import Clock
from support.page_server import detections


def box(label: str) -> Box:
    return Box(0, label, 0.9, (0.0, 0.0, 1.0, 1.0))


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


def test_counts_are_the_most_of_a_second_by_label(clock: Clock) -> None:
    history = History(clock)
    history.observe(detections("gate", box("person"), box("person"), box("car")))
    history.observe(detections("gate", box("person")))
    clock.now += 1
    history.observe(detections("gate"))
    counts = history.of("gate")["counts"]
    assert {label: values[-2:] for label, values in counts.items()} == {"person": [2, 0], "car": [1, 0]}


def test_counts_when_a_minute_has_passed_are_forgotten(clock: Clock) -> None:
    history = History(clock)
    history.observe(detections("gate", box("person")))
    clock.now += SECONDS
    history.observe(detections("gate"))
    assert history.of("gate")["counts"] == {}


def test_counts_when_a_model_has_a_thousand_labels_are_those_of_the_most_frequent(clock: Clock) -> None:
    history = History(clock)
    history.observe(detections("gate", *[box(f"label{i}") for i in range(1000)]))
    assert len(history.of("gate")["counts"]) == LABELS


def test_reasons_are_listed_once_while_they_repeat_and_the_last_ones_only(clock: Clock) -> None:
    history = History(clock)
    for number in range(2 * REASONS):
        for _ in range(3):
            history.observe(detections(outcome="error", reason=f"fault {number}", detections=[]))
    history.observe(StreamState(stream="gate", state="reconnecting", reason="refused"))
    texts = [one["text"] for one in history.of("gate")["reasons"]]
    assert texts[:2] == ["reconnecting: refused", f"error: fault {2 * REASONS - 1}"]
    assert len(texts) == len(set(texts)) == REASONS


def test_history_of_a_stream_that_is_removed_or_unknown_is_empty(clock: Clock) -> None:
    history = History(clock)
    history.observe(detections("gate", box("person")))
    assert history.of("gate")["last"] == {
        "frame": 0, "outcome": "ok", "reason": None, "width": 640, "height": 360, "found": 1,
    }  # fmt: skip
    history.observe(StreamState(stream="gate", state="removed"))
    assert history.of("gate") == history.of("nosuch") == {"last": None, "counts": {}, "reasons": []}


def test_history_when_a_viewer_reads_takes_messages_in_afterwards(clock: Clock) -> None:
    history = History(clock)
    with history._lock:
        thread = threading.Thread(target=history.observe, args=(detections("gate", box("person")),))
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    assert history.of("gate")["counts"]["person"][-1] == 1
