"""What `qzdctl tail` prints."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from qzd_client import messages
from qzd_client.subscriber import Client, Gap, StreamState
from qzd_daemon.ctl import silence, tail
from qzd_daemon.ctl.target import Target
from support.processes import wait_until_heard
from support.publisher import SnapshotPublisher

TOPIC = messages.stream_topic("gate")
TOPIC_M = messages.detections_topic("gate", "m")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SnapshotPublisher]:
    service = SnapshotPublisher(tmp_path)
    yield service
    service.close()


def test_tail_when_heartbeats_are_rare_does_not_take_that_for_silence(
    service: SnapshotPublisher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(silence, "SILENCE_SECONDS", 0.01)  # shorter than the time between two heartbeats
    with Client(service.endpoint) as client:
        wait_until_heard(client)
        threading.Timer(0.3, service.publish, (1,)).start()
        watched = silence.Silence(Target(service.endpoint, None, None), client, service.endpoint)
        events = (event for event in tail._events(client, watched) if event is not None)
        assert isinstance(next(events), StreamState)
    assert capsys.readouterr().err == ""


def test_tail_when_a_reason_would_steer_the_terminal_shows_it_in_one_line() -> None:
    state = StreamState(stream="gate", state="failed", reason="café\n\x1b[2J.png")
    assert click.unstyle(tail._text_line(state)) == r"-- stream gate failed: café\n\x1b[2J.png"


def test_tail_when_a_state_was_lost_tells_it_once_among_the_rates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tail, "RATE_SECONDS", 0.0)
    events = iter([Gap(TOPIC, 1, 1), Gap(TOPIC_M, 1, 2), None])
    tail._print_rates(events, tail._Filter((), (), 0.0, found=False))
    told = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert told == [f"{TOPIC.rstrip('/')}:", "gate/m:", "gate/m:"]
