"""Gaps in the times of pictures: what is absent, and what only looks like it."""

from __future__ import annotations

from fractions import Fraction

import pytest

from qzd_daemon.sources.cadence import EVEN, Cadence


def absences(times: list[float], rate: Fraction | None = None) -> dict[int, int]:
    """How many pictures are absent before each of some, by their index."""
    cadence = Cadence(rate)
    found = {index: cadence.absent(time) for index, time in enumerate(times)}
    return {index: count for index, count in found.items() if count}


def even(count: int, interval: float = 0.04) -> list[float]:
    return [index * interval for index in range(count)]


def test_absent_when_every_interval_is_alike_is_nothing() -> None:
    assert absences(even(100)) == {}


@pytest.mark.parametrize(
    ("left_out", "expected"), [([40], {40: 1}), ([40, 41, 42], {40: 3}), ([30, 50], {30: 1, 49: 1})]
)
def test_absent_when_pictures_are_left_out_counts_them(left_out: list[int], expected: dict[int, int]) -> None:
    times = [time for index, time in enumerate(even(100)) if index not in left_out]
    assert absences(times) == expected


def test_absent_when_times_are_rounded_to_milliseconds_is_exact() -> None:
    times = [round(index / 29.97, 3) for index in range(200) if index not in (70, 71)]
    assert absences(times) == {70: 2}


@pytest.mark.parametrize("rate", [None, Fraction(25)])
def test_absent_at_the_beginning_is_known_only_with_a_stated_rate(rate: Fraction | None) -> None:
    times = [time for index, time in enumerate(even(20)) if index != 3]
    assert absences(times, rate) == ({3: 1} if rate else {})


@pytest.mark.parametrize(
    "times",
    [
        [0.0, 0.04, 0.12, 0.16, 0.28, 0.32, 0.36, 0.44] * 1,  # never even
        [*even(EVEN + 2), EVEN * 0.04 + 0.1, EVEN * 0.04 + 0.2],  # no multiple
        [*even(EVEN + 5), 300.0, 300.04],  # a cut
        [*even(EVEN + 5), 0.0, 0.04],  # another clock
        [0.0] * 40,
    ],
)
def test_absent_when_the_times_are_uneven_is_nothing(times: list[float]) -> None:
    assert absences(times) == {}
