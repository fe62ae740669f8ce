"""When a device has failed, and when it is trusted again."""

from __future__ import annotations

import pytest

from qzd_daemon.engine.faults import ANSWERS, FAULT_SECONDS, DeviceFaults
from support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def faults(clock: Clock) -> DeviceFaults:
    return DeviceFaults(clock)


def run(faults: DeviceFaults, clock: Clock, what: str, step: float) -> list[bool]:
    """Note what happens, one letter after another: a fault, or an answer."""
    said = []
    for letter in what:
        clock.now += step
        said.append(faults.note_fault() if letter == "f" else faults.note_answer())
    return said


@pytest.mark.parametrize(
    ("what", "step", "failed"),
    [
        ("fff", FAULT_SECONDS, True),
        ("ff", 0.0, False),
        ("faffa", FAULT_SECONDS, False),
        ("fafaf", 0.1, True),
        ("fafaf", FAULT_SECONDS / 4, False),
        ("aaaa", 0.0, False),
    ],
    ids=["slow in a row", "too few", "answers between", "soon after each other", "rare", "none"],
)
def test_note_fault_when_they_are_many_or_soon_says_that_the_device_failed(
    faults: DeviceFaults, clock: Clock, what: str, step: float, failed: bool
) -> None:
    assert any(run(faults, clock, what, step)) == failed


def test_note_fault_when_the_device_has_failed_says_so_once(faults: DeviceFaults, clock: Clock) -> None:
    assert run(faults, clock, "f" * 10, 0.0).count(True) == 1


def test_note_answer_when_a_kept_device_answers_long_enough_trusts_it_again(
    faults: DeviceFaults, clock: Clock
) -> None:
    run(faults, clock, "fff", 0.0)
    faults.keep()
    said = run(faults, clock, "a" * (ANSWERS - 1) + "f" + "a" * ANSWERS, 0.0)
    assert said == [*[False] * (2 * ANSWERS - 1), True]
    assert run(faults, clock, "fff", 0.0) == [False, False, True]


def test_note_answer_when_the_device_is_not_kept_says_nothing(faults: DeviceFaults, clock: Clock) -> None:
    run(faults, clock, "fff", 0.0)
    assert not any(run(faults, clock, "a" * 2 * ANSWERS, 0.0))


def test_pass_self_test_when_a_device_is_kept_trusts_it_again(faults: DeviceFaults, clock: Clock) -> None:
    assert not faults.pass_self_test()
    run(faults, clock, "fff", 0.0)
    assert not faults.pass_self_test()
    faults.keep()
    assert faults.pass_self_test()
    assert not faults.pass_self_test()


def test_reset_when_another_device_serves_counts_from_nothing(faults: DeviceFaults, clock: Clock) -> None:
    run(faults, clock, "ff", 0.0)
    faults.reset()
    assert run(faults, clock, "fff", 0.0) == [False, False, True]
