"""Problems that follow from the messages that were published."""

from __future__ import annotations

import time

import pytest

from qzd_client import messages
from qzd_daemon.config.schema import HttpConfig
from qzd_daemon.engine.engine import Engine
from qzd_daemon.monitoring import monitor
from qzd_daemon.monitoring.health import Health
from qzd_daemon.sources.ingest import IngestRegistry
from qzd_daemon.transport.listener import Listener
from support.clock import Clock

MODEL = messages.ModelInfo("ssd", "3", "sha256:0", "int8", "CPU")
LIMITS = {"gate": 30.0, "yard": 0.0}


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock)


def source(stream: str, state: messages.StreamStateName, reason: str | None = None) -> messages.StreamState:
    return messages.StreamState(stream=stream, state=state, reason=reason)


def test_problems_when_a_source_is_down_too_long_name_it_and_why(health: Health, clock: Clock) -> None:
    health.observe(source("gate", "reconnecting", "no data for 10 s"))
    clock.now += 30
    assert health.problems(LIMITS) == []
    clock.now += 1
    assert health.problems(LIMITS) == ["stream gate: down for 31 s: no data for 10 s"]


def test_problems_when_a_source_tries_again_count_from_its_first_loss(health: Health, clock: Clock) -> None:
    health.observe(source("gate", "reconnecting"))
    clock.now += 20
    health.observe(source("gate", "connecting"))
    clock.now += 20
    assert health.problems(LIMITS) == ["stream gate: down for 40 s: connecting"]


def test_problems_when_a_source_that_is_down_is_being_removed_are_none(health: Health, clock: Clock) -> None:
    health.observe(source("gone", "reconnecting"))
    clock.now += 100
    assert health.problems(LIMITS) == []


@pytest.mark.parametrize("state", ["running", "ended", "removed"])
def test_problems_when_a_source_is_back_or_done_are_none(
    health: Health, clock: Clock, state: messages.StreamStateName
) -> None:
    health.observe(source("yard", "failed", "gone"))
    clock.now += 1
    assert len(health.problems(LIMITS)) == 1
    health.observe(source("yard", state))
    assert health.problems(LIMITS) == []


def test_problems_when_a_model_has_failed_last_until_another_serves(health: Health) -> None:
    health.observe(messages.ModelState(model=MODEL, state="failed", reason="the device is lost"))
    assert health.problems({}) == ["model ssd: the device is lost"]
    health.observe(messages.ModelState(model=MODEL, state="swapped"))
    assert health.problems({}) == []


def test_live_when_the_start_took_long_has_nothing_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener()
    engine = Engine(lambda *_: None, lambda: None, IngestRegistry(1))
    watch = monitor.Monitor(HttpConfig(), engine, listener, {})
    begun = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: begun + 600)
    watch.enter(None)
    assert watch.live() == watch.ready() == []
    listener.close()
