"""Rates of a stream over the last seconds, by a clock that stands still."""

from __future__ import annotations

from typing import Any

import pytest

from qzd_client import messages
from qzd_daemon.monitoring.rates import WINDOW_SECONDS, Rates
from support.clock import Clock


def frame(model: str = "ssd", latency_ms: float = 20, **fields: Any) -> messages.Detections:
    info = messages.ModelInfo(model, "1", "sha256:0", "int8", "CPU")
    given: dict[str, Any] = {
        "stream": "gate", "frame": 0, "width": 64, "height": 64, "outcome": "ok", "model": info,
        "timing_ms": messages.StageTimes(0, 0, 0, 0), "thresholds": messages.UsedThresholds(0.5, 0.5),
        "captured_ns": 10**18, "published_ns": 10**18 + round(latency_ms * 1e6), **fields,
    }  # fmt: skip
    return messages.Detections(**given)


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


def feed(rates: Rates, clock: Clock, *frames: messages.Detections, fps: float = 5) -> None:
    for message in frames:
        rates.observe(message)
        clock.now += 1 / fps


def test_rates_when_nothing_came_say_so(clock: Clock) -> None:
    rates = Rates(clock).of("gate")
    assert (rates.fps, rates.latency_p50_ms, rates.dropped, rates.last_frame_ns) == (0, None, 0, None)


def test_rates_when_frames_come_steadily_are_theirs(clock: Clock) -> None:
    rates = Rates(clock)
    feed(rates, clock, *[frame(latency_ms=n) for n in range(1, 101)])
    found = rates.of("gate")
    assert found.fps == pytest.approx(5, abs=0.2)
    assert (found.latency_p50_ms, found.latency_p99_ms) == (76, 100)  # of the last 50 frames


def test_rates_when_frames_stop_fall_to_zero_and_keep_the_last_frame(clock: Clock) -> None:
    rates = Rates(clock)
    feed(rates, clock, frame(), frame(captured_ns=2 * 10**18, published_ns=2 * 10**18))
    clock.now += WINDOW_SECONDS
    assert (rates.of("gate").fps, rates.of("gate").last_frame_ns) == (0, 2 * 10**18)


def test_rates_count_dropped_frames_as_a_share(clock: Clock) -> None:
    rates = Rates(clock)
    feed(rates, clock, frame(dropped_before=3), frame(dropped_before=3))
    assert rates.of("gate").dropped == 0.75


def test_rates_take_no_latency_from_a_fault(clock: Clock) -> None:
    rates = Rates(clock)
    feed(rates, clock, frame(outcome="error", reason="damaged"))
    assert (rates.of("gate").latency_p50_ms, rates.of("gate").fps) == (None, 1)


def test_rates_of_a_stream_through_two_models_are_those_of_its_frames(clock: Clock) -> None:
    rates = Rates(clock)
    for _ in range(50):
        rates.observe(frame("ssd"))
        rates.observe(frame("yolo"))
        clock.now += 0.2
    assert rates.of("gate").fps == pytest.approx(5, abs=0.2)


def test_rates_when_the_window_is_full_count_over_the_time_that_they_keep(clock: Clock) -> None:
    rates = Rates(clock)
    feed(rates, clock, *[frame()] * 5000, fps=1000)
    assert rates.of("gate").fps == pytest.approx(1000, rel=0.01)


def test_rates_forget_a_stream_that_is_removed(clock: Clock) -> None:
    rates = Rates(clock)
    feed(rates, clock, frame())
    rates.observe(messages.StreamState(stream="gate", state="removed"))
    assert rates.of("gate").last_frame_ns is None
