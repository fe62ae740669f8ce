"""Pictures for people: kept only while somebody looks, encoded once."""

from __future__ import annotations

import threading

import cv2
import numpy as np
import pytest

from qzd_client.messages import Box, ClassScore
from qzd_daemon.monitoring.draw import draw_found
from qzd_daemon.monitoring.view import MAX_FPS, MAX_SIDE, View
from support.clock import Clock
from support.page_server import detections


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


def grey(value: int, width: int = 640, height: int = 360) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def decoded(content: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture


BOX = Box(0, "person", 0.9, (100.0, 100.0, 300.0, 300.0))


def test_view_when_nobody_looks_keeps_nothing() -> None:
    view = View()
    view.take(detections(), grey(10))
    with view.watch(["gate"]) as watch:
        assert watch.next(0) == {}


def test_view_when_somebody_looks_gives_each_picture_once() -> None:
    view = View()
    with view.watch(["gate"]) as watch:
        view.take(detections(), grey(10))
        assert list(watch.next(5)) == ["gate"]
        assert watch.next(0) == {}


def test_view_when_the_last_viewer_leaves_forgets_the_picture() -> None:
    view = View()
    with view.watch(["gate"]) as first:
        with view.watch(["gate"]):
            view.take(detections(), grey(10))
        assert list(first.next(0)) == ["gate"]
    with view.watch(["gate"]) as second:
        assert second.next(0) == {}


def test_view_takes_no_more_frames_than_viewers_see(clock: Clock) -> None:
    view = View(clock)
    with view.watch(["gate"]) as watch:
        view.take(detections(), grey(10))
        first = watch.next(0)["gate"]
        view.take(detections(), grey(20))
        assert watch.next(0) == {}
        clock.now += 1 / MAX_FPS
        view.take(detections(), grey(30))
        assert watch.next(0)["gate"] is not first


def test_view_when_a_frame_has_no_picture_keeps_the_one_before() -> None:
    view = View()
    with view.watch(["gate"]) as watch:
        view.take(detections(outcome="error", reason="x"), None)
        assert watch.next(0) == {}


def test_picture_is_scaled_down_and_encoded_once() -> None:
    view, frame = View(), grey(200, 1920, 1080)
    with view.watch(["gate"]) as watch:
        view.take(detections("gate", BOX, width=1920, height=1080), frame)
        picture = watch.next(0)["gate"]
    assert decoded(picture.jpeg(boxes=False)).shape == (540, MAX_SIDE, 3)
    assert decoded(picture.jpeg(boxes=False)).mean() == pytest.approx(200, abs=2)
    assert picture.jpeg() is picture.jpeg()
    drawn = decoded(picture.jpeg()).astype(int) - decoded(picture.jpeg(boxes=False))
    assert np.abs(drawn[150, 40:160]).max() > 40  # the box's lower edge, at half of its size


@pytest.mark.parametrize(
    "corners",
    [(0, 0, 30, 30), (600, 330, 640, 360), (0, 330, 30, 360), (600, 0, 640, 30), (0, 0, 640, 360)],
    ids=["top left", "bottom right", "bottom left", "top right", "whole"],
)
@pytest.mark.parametrize("label", ["person", "ein sehr langer Name für einen Gegenstand", "\x1b[2J<b>人"])
def test_label_is_inside_the_picture(corners: tuple[float, float, float, float], label: str) -> None:
    tall = np.full((360 + 200, 640 + 400, 3), 128, np.uint8)
    draw_found(tall[100:460, 200:840], [detections("gate", Box(1, label, 0.5, corners))])
    inner = tall[100:460, 200:840].copy()
    tall[100:460, 200:840] = 128
    assert (tall == 128).all()  # nothing was drawn beside it
    assert (inner != 128).any(axis=2).sum() > 400  # a label's background, at least


def test_classes_are_drawn_one_below_the_other() -> None:
    picture = grey(128)
    message = detections(detections=[], classes=[ClassScore(0, "cat", 0.9), ClassScore(1, "dog", 0.1)])
    draw_found(picture, [message])
    assert (picture[10, 5:20] != 128).any()
    assert (picture[35, 5:20] != 128).any()


def test_view_when_a_viewer_reads_lets_a_frame_pass_and_does_not_wait() -> None:
    view = View()
    with view.watch(["gate"]) as watch:
        with view._changed:
            thread = threading.Thread(target=view.take, args=(detections(), grey(10)))
            thread.start()
            thread.join(10)
            assert not thread.is_alive()
        assert watch.next(0) == {}
        view.take(detections(), grey(10))
        assert list(watch.next(0)) == ["gate"]
