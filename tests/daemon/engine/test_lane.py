"""A lane publishes one message per frame, whatever goes wrong with it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from qzd_client import messages
from qzd_daemon.config.schema import ModelConfig
from qzd_daemon.engine import models
from qzd_daemon.engine.lane import FrameJob, Lane, NoResult
from qzd_daemon.engine.models import LoadedModel
from qzd_daemon.engine.queues import FairQueue, QueuedItem
from qzd_daemon.sources.open import SourceFrame
from support.tiny_model import paint


@pytest.fixture(scope="module")
def served(tiny_bundle: Path) -> Iterator[LoadedModel]:
    served = models.load("tiny", ModelConfig(bundle=str(tiny_bundle), device="CPU", confidence=0.9), None)
    yield served
    served.detector.close()


class Published:
    """What a lane has published."""

    def __init__(self) -> None:
        self.messages: list[messages.Detections] = []
        self.lane = Lane("gate", "tiny", FairQueue(), "wait", self._publish)

    def _publish(self, topic: str, message: messages.Message) -> None:
        assert topic == "qzd/1/detections/gate/tiny/"
        assert isinstance(message, messages.Detections)
        self.messages.append(message)

    def queued(self, index: int, captured: SourceFrame) -> QueuedItem[FrameJob]:
        assert self.lane.queue.put(FrameJob(self.lane, index, captured))
        return self.lane.queue.empty()[0]


@pytest.mark.parametrize("fails", ["made", "published"])
def test_finish_when_a_message_cannot_be_made_or_published_publishes_an_error_in_its_place(
    served: LoadedModel, caplog: pytest.LogCaptureFixture, fails: str
) -> None:
    sent: list[messages.Detections] = []

    def publish(_: str, message: messages.Message) -> None:
        assert isinstance(message, messages.Detections)
        if fails == "published" and message.frame == 10 and message.outcome == "ok":
            raise ValueError("it cannot be sent")
        sent.append(message)

    lane = Lane("gate", "tiny", FairQueue(), "wait", publish)
    frame = paint((2, 3, "green"))
    found = served.detector.detect(frame)
    unknown_class = msgspec.structs.replace(found.found, class_ids=np.array([99], np.int32))
    for index in range(60):
        queued = QueuedItem(FrameJob(lane, index, SourceFrame(frame)), 0)
        outcome = replace(found, found=unknown_class) if fails == "made" and index == 10 else found
        lane.finish(queued, served, 0.0, outcome)
    assert [message.frame for message in sent] == list(range(60))
    assert [message.frame for message in sent if message.outcome != "ok"] == [10]
    assert (sent[10].outcome, sent[10].detections) == ("error", msgspec.UNSET)
    assert "its message could not be made or sent" in str(sent[10].reason)
    assert "stream gate: frame 10 could not be sent" in caplog.text


def test_finish_when_a_frame_cannot_be_looked_at_goes_on(
    served: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    def look(*_: object) -> None:
        raise ValueError("it cannot be shown")

    sent: list[messages.Message] = []
    lane = Lane("gate", "tiny", FairQueue(), "wait", lambda _, message: sent.append(message), look)
    for index in range(2):
        assert lane.queue.put(FrameJob(lane, index, SourceFrame(paint())))
        (queued,) = lane.queue.empty()
        lane.finish(queued, served, 0.0, NoResult("error", "damaged"))
    assert len(sent) == 2
    assert lane.queue.wait_finished(0)
    assert "stream gate: frame 0 cannot be looked at" in caplog.text


def test_finish_when_nothing_can_be_published_counts_every_frame_as_done(served: LoadedModel) -> None:
    def publish(_: str, __: messages.Message) -> None:
        raise ValueError("it cannot be sent")

    lane = Lane("gate", "tiny", FairQueue(), "wait", publish)
    for index in range(3):
        assert lane.queue.put(FrameJob(lane, index, SourceFrame(None, "damaged")))
        (queued,) = lane.queue.empty()
        assert not lane.queue.wait_finished(0)
        lane.finish(queued, served, 0.0, NoResult("error", "damaged"))
    assert lane.queue.wait_finished(0)


def test_finish_when_boxes_were_found_lists_them_with_what_made_them(served: LoadedModel) -> None:
    published = Published()
    captured = SourceFrame(paint((2, 3, "green")), pts_s=1.5)
    assert captured.frame is not None
    published.lane.finish(published.queued(7, captured), served, 0.25, served.detector.detect(captured.frame))
    (message,) = published.messages
    assert message.detections == [messages.Box(1, "green", 1.0, (16.0, 24.0, 24.0, 32.0))]
    assert (message.frame, message.pts_s, message.width, message.height) == (7, 1.5, 64, 64)
    assert (message.outcome, message.reason) == ("ok", None)
    assert (message.model.precision, message.model.device) == ("fp32", "CPU")
    assert message.thresholds == messages.UsedThresholds(confidence=0.9, iou=0.45)
    assert message.timing_ms.queue == 0.25


def test_finish_when_the_picture_was_not_whole_says_so_beside_what_was_found(served: LoadedModel) -> None:
    published = Published()
    queued = published.queued(0, SourceFrame(paint((2, 3, "green")), "a packet is damaged"))
    published.lane.finish(queued, served, 0.0, served.detector.detect(paint((2, 3, "green"))))
    (message,) = published.messages
    assert (message.outcome, message.reason) == ("damaged", "a packet is damaged")
    assert message.detections


def test_finish_when_the_device_failed_lists_nothing_at_all(served: LoadedModel) -> None:
    published = Published()
    captured = SourceFrame(paint())
    published.lane.finish(published.queued(0, captured), served, 0.0, NoResult("error", "device GPU failed"))
    (message,) = published.messages
    assert (message.outcome, message.reason) == ("error", "device GPU failed")
    assert b'"detections"' not in messages.encode(message)


def test_detections_when_encoded_read_back_the_same(served: LoadedModel) -> None:
    published = Published()
    rng = random.Random(1)
    cells = [(rng.randrange(8), rng.randrange(8), rng.choice(["red", "blue"])) for _ in range(12)]
    captured = SourceFrame(paint(*cells))
    assert captured.frame is not None
    published.lane.finish(published.queued(0, captured), served, 0.0, served.detector.detect(captured.frame))
    assert messages.decode(messages.encode(published.messages[0])) == published.messages[0]
