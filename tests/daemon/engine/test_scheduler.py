"""The two threads of a model: every frame is answered once and in order, whatever becomes of its device."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qzd_client import messages
from qzd_daemon.config.schema import ModelConfig, StreamConfig
from qzd_daemon.engine import models
from qzd_daemon.engine.lane import FrameJob
from qzd_daemon.engine.models import LoadedModel
from qzd_daemon.engine.scheduler import Scheduler
from qzd_daemon.sources.frames import SourceFrame
from qzd_ext.cpus import usable_cpus
from qzd_ext.geometry import Frame
from support.tiny_model import POISON, Fault, paint, write_tiny_bundle
from support.waiting import until

STREAM = StreamConfig(source="/clip.mp4", model="m", when_behind="wait")
DIM = 3  # POISON divided by it keeps the device busy for half a second


class Model:
    """A scheduler of one stream, with what it has published."""

    def __init__(
        self, directory: Path, fault: Fault = "none", requests: int = 2, timeout: float = 20
    ) -> None:
        self.bundle = write_tiny_bundle(directory / fault, fault=fault)
        self.requests = requests
        self.published: list[messages.Detections] = []
        self.failed = threading.Event()
        self.scheduler = Scheduler("m", self.load(), lambda _: self.failed.set(), lambda _: None, timeout)
        self.lane = self.scheduler.lane("s", STREAM, self._publish, None)

    def load(self) -> LoadedModel:
        config = ModelConfig(bundle=str(self.bundle), device="CPU", requests=self.requests)
        return models.load("m", config, None)

    def _publish(self, _: str, message: messages.Message) -> None:
        assert isinstance(message, messages.Detections)
        self.published.append(message)

    def put(self, index: int, frame: Frame | None) -> None:
        captured = SourceFrame(frame, "lost" if frame is None else None)
        assert self.lane.queue.put(FrameJob(self.lane, index, captured))

    def put_many(self, count: int) -> None:
        for index in range(count):
            self.put(index, paint((index % 8, 1, "red")))

    def wait_for(self, count: int) -> list[tuple[int, str]]:
        until(lambda: len(self.published) >= count)
        return [(message.frame, message.outcome) for message in self.published]


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Model]:
    """Serve with one request, which POISON keeps busy for longer than it may take."""
    model = Model(tmp_path, "slow", requests=1, timeout=0.1)
    model.scheduler.start()
    yield model
    assert model.scheduler.stop(20)


def poison(index: int) -> Frame:
    frame = paint(POISON) // DIM
    frame[0, 0, 2] -= index  # OpenVINO checks a shape only when it changes
    return frame


@pytest.mark.skipif(usable_cpus() < 2, reason="one CPU runs one request after the other")
def test_frames_that_end_in_another_order_are_published_in_their_own(tmp_path: Path) -> None:
    model = Model(tmp_path, "slow", requests=2)
    model.scheduler.start()
    for index in range(6):
        lost = index == 2
        model.put(index, None if lost else poison(index) if index % 2 == 0 else paint((index, 1, "red")))
    outcomes = ["ok", "ok", "error", "ok", "ok", "ok"]
    assert model.wait_for(6) == list(enumerate(outcomes))
    assert model.published[2].reason == "lost"
    assert model.scheduler.stop(20)


def test_frame_whose_scores_are_not_finite_is_an_error_and_no_other(tmp_path: Path) -> None:
    model = Model(tmp_path, "nan")
    model.scheduler.start()
    for index in range(3):
        model.put(index, paint(POISON) if index == 1 else paint((3, 3, "green")))
    assert model.wait_for(3) == list(enumerate(["ok", "error", "ok"]))
    assert "finite" in (model.published[1].reason or "")
    assert not model.failed.is_set()  # the device has answered
    assert model.scheduler.stop(20)


@pytest.mark.skipif(usable_cpus() < 2, reason="one CPU runs one request after the other")
def test_frames_behind_one_that_is_late_are_worked_on_and_published_after_it(tmp_path: Path) -> None:
    model = Model(tmp_path, "slow", requests=2)
    model.scheduler.start()
    model.put(0, paint(POISON))
    for index in range(1, 12):  # blocks while the queue is full, which it is unless requests are released
        model.put(index, paint((3, 1, "red")))
    assert not model.published
    assert model.wait_for(12) == [(index, "ok") for index in range(12)]
    assert model.scheduler.stop(20)


def test_device_that_answers_too_late_serves_again_when_it_has(slow: Model) -> None:
    slow.put(0, poison(0))
    assert slow.wait_for(1) == [(0, "error")]
    assert "has not answered for 0." in (slow.published[0].reason or "")
    assert slow.scheduler.hung
    slow.put(1, paint((3, 3, "green")))
    assert slow.wait_for(2)[1] == (1, "ok")
    until(lambda: not slow.scheduler.hung)
    assert not slow.failed.is_set()


def test_skip_when_the_device_hangs_answers_the_frames_that_wait_after_those_in_progress(slow: Model) -> None:
    for index in range(3):
        slow.put(index, poison(index))
    until(lambda: len(slow.lane.queue) == 2)
    slow.scheduler.skip(slow.lane)
    assert slow.wait_for(3) == [(0, "error"), (1, "skipped"), (2, "skipped")]
    assert slow.lane.queue.wait_finished(20)


def test_swap_when_the_device_hangs_goes_on_with_the_other_model(tmp_path: Path) -> None:
    model = Model(tmp_path, "slow", requests=1, timeout=0.1)
    model.scheduler.start()
    model.put(0, poison(0))
    model.put(1, paint((3, 3, "green")))
    until(lambda: len(model.lane.queue) == 1)
    other = model.load()
    model.scheduler.swap(other)
    assert model.scheduler.served is other
    assert [outcome for _, outcome in model.wait_for(2)] == ["error", "ok"]
    until(lambda: not model.scheduler.hung)
    assert model.scheduler.stop(20)


def test_swap_when_the_scheduler_has_ended_closes_the_other_model(tmp_path: Path) -> None:
    model = Model(tmp_path)
    model.scheduler.start()
    before = model.scheduler.served
    assert model.scheduler.stop(20)
    model.scheduler.swap(model.load())
    assert model.scheduler.served is before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("qzd")]


def test_swap_when_frames_are_put_all_the_while_keeps_their_order(tmp_path: Path) -> None:
    model = Model(tmp_path, requests=4)
    model.scheduler.start()
    with ThreadPoolExecutor(1) as pool:
        putting = pool.submit(model.put_many, 300)
        for _ in range(5):
            model.scheduler.swap(model.load())
        putting.result(30)
    assert model.wait_for(300) == [(index, "ok") for index in range(300)]
    assert model.scheduler.stop(20)


@pytest.mark.parametrize("step", ["begin", "result"])
def test_frame_that_fails_in_a_way_that_nobody_foresaw_is_an_error_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    model = Model(tmp_path, requests=1)
    detector = model.scheduler.served.detector
    run = getattr(detector, step)
    calls: list[object] = []

    def run_or_fail(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise ValueError("unforeseen")
        return run(*arguments)

    monkeypatch.setattr(detector, step, run_or_fail)
    model.scheduler.start()
    model.put_many(4)
    assert model.wait_for(4) == [(0, "ok"), (1, "error"), (2, "ok"), (3, "ok")]
    assert model.published[1].reason == "ValueError: unforeseen"
    assert model.scheduler.stop(20)


def test_stop_when_it_has_no_time_answers_every_frame_and_says_so(tmp_path: Path) -> None:
    model = Model(tmp_path, "slow", requests=1)
    model.scheduler.start()
    for index in range(4):
        model.put(index, poison(index))
    until(lambda: len(model.lane.queue) == 3)
    assert not model.scheduler.stop(0)
    assert model.wait_for(4) == [(0, "error"), *[(index, "skipped") for index in (1, 2, 3)]]
