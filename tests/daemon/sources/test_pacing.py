"""When a frame is handed over, by a clock that the test sets."""

from __future__ import annotations

import itertools

import pytest

from qzd_daemon.sources.pacing import Pace


def play(pace: Pace, frames: list[tuple[float, float | None]]) -> list[float]:
    """Return the times at which the frames that are not left out are handed over."""
    waits = [(now, pace.wait(now, pts)) for now, pts in frames]
    return [round(now + wait, 6) for now, wait in waits if wait is not None]


def test_wait_when_nothing_limits_hands_over_at_once() -> None:
    assert play(Pace(None, real_time=False), [(0.0, 0.0), (0.001, 0.04)]) == [0.0, 0.001]


def test_wait_when_max_fps_is_set_spaces_frames_and_leaves_none_out() -> None:
    assert play(Pace(10, real_time=False), [(5.0, None), (5.0, None), (5.1, None), (9.0, None)]) == [
        5.0,
        5.1,
        5.2,
        9.0,
    ]


def test_wait_when_in_real_time_plays_a_file_at_its_own_speed() -> None:
    assert play(Pace(None, real_time=True), [(7.0, 1.0), (7.0, 1.04), (7.5, 1.08)]) == [7.0, 7.04, 7.5]


def test_wait_when_in_real_time_leaves_out_what_is_faster_than_max_fps() -> None:
    taken = play(Pace(10, real_time=True, live=True), [(i / 25, None) for i in range(250)])
    assert len(taken) == pytest.approx(100, abs=1)
    assert min(b - a for a, b in itertools.pairwise(taken)) > 0.07


def test_wait_when_a_camera_at_max_fps_jitters_takes_every_frame() -> None:
    jitter = [0.004, -0.004, 0.003, -0.002, 0.0]
    pace = Pace(10, real_time=True, live=True)
    assert len(play(pace, [(i / 10 + jitter[i % 5], None) for i in range(100)])) == 100


def test_wait_when_a_source_was_silent_does_not_catch_up() -> None:
    pace = Pace(10, real_time=True, live=True)
    taken = play(pace, [(0.0, None), *((5 + i / 100, None) for i in range(50))])
    assert len(taken) == 7


def test_wait_when_a_file_is_read_again_begins_anew() -> None:
    pace = Pace(None, real_time=True)
    assert play(pace, [(7.0, 0.0), (7.0, 0.04), (7.08, 0.0), (7.08, 0.04)]) == [7.0, 7.04, 7.08, 7.12]


def test_wait_when_two_frames_of_a_file_have_one_time_is_not_put_off() -> None:
    pace = Pace(None, real_time=True)
    assert play(pace, [(0.0, 0.0), (0.0, 0.5), (0.5, 0.5), (0.5, 1.0)]) == [0.0, 0.5, 0.5, 1.0]


def test_wait_when_the_time_of_a_file_leaps_plays_on_as_before() -> None:
    pace = Pace(None, real_time=True)
    assert play(pace, [(0.0, 0.0), (0.0, 0.5), (0.54, 3600.0), (0.54, 3600.5)]) == [0.0, 0.5, 1.0, 1.5]


@pytest.mark.parametrize(
    ("max_fps", "times", "most"),
    [
        (0.4, [0.0, 0.04, 0.08], 65),  # the file is played 20 times before its next frame is due
        (5.0, [0.0], 1),
        (1.0, [None, None], 1),  # images have no time of their own
    ],
)
def test_wait_when_a_short_source_is_read_over_and_over_reads_no_more_than_it_plays(
    max_fps: float, times: list[float | None], most: int
) -> None:
    pace = Pace(max_fps, real_time=True)
    waits = [pace.wait(0.0, pts) for pts in itertools.islice(itertools.cycle(times), most + 1)]
    assert waits[0] == 0
    assert next(filter(None, waits)) == pytest.approx(1 / max_fps, rel=0.1)
