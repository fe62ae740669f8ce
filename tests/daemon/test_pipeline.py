"""A lane publishes every frame once and in order, whatever the order in which requests end."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qzd_daemon import models, wire
from qzd_daemon.config import ModelConfig
from qzd_daemon.mailbox import Inbox, Mail
from qzd_daemon.models import Served
from qzd_daemon.pipeline import Lane, Unknown, Work, make_message
from qzd_daemon.sources import Captured
from tiny import paint


@pytest.fixture(scope="module")
def served(tiny_bundle: Path) -> Iterator[Served]:
    served = models.load("tiny", ModelConfig(bundle=str(tiny_bundle), device="CPU", confidence=0.9), None)
    yield served
    served.detector.close()


class Published:
    """What a lane has published."""

    def __init__(self) -> None:
        self.messages: list[wire.Detections] = []
        self.lane = Lane("gate", "tiny", Inbox(), "wait", self._publish)

    def _publish(self, topic: str, message: wire.Message) -> None:
        assert topic == "qzd/1/detections/gate/tiny/"
        assert isinstance(message, wire.Detections)
        self.messages.append(message)

    def mail(self, index: int, captured: Captured) -> Mail[Work]:
        assert self.lane.mailbox.put(Work(self.lane, index, captured))
        return self.lane.mailbox.empty()[0]


@given(order=st.permutations(range(8)))
def test_finish_whatever_ends_first_publishes_in_frame_order(served: Served, order: list[int]) -> None:
    published = Published()
    mails = [published.mail(i, Captured(None, "damaged")) for i in range(8)]
    for i in order:
        published.lane.finish(mails[i], served, 0.0, Unknown("error", "damaged"))
    assert [m.frame for m in published.messages] == list(range(8))


def test_finish_when_a_message_cannot_be_published_goes_on_with_the_next(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[wire.Message] = []

    def publish(_: str, message: wire.Message) -> None:
        if message == refused:
            raise ValueError("it cannot be sent")
        sent.append(message)

    lane = Lane("gate", "tiny", Inbox(), "wait", publish)
    captured = [Captured(None, "damaged") for _ in range(2)]
    mails = [Mail(Work(lane, index, one), 0, index) for index, one in enumerate(captured)]
    refused = make_message("gate", mails[0], served, 0.0, Unknown("error", "damaged"))
    for mail in reversed(mails):  # the second is there already when the first is refused
        lane.finish(mail, served, 0.0, Unknown("error", "damaged"))
    assert [message.frame for message in sent] == [1]  # type: ignore[attr-defined]
    assert "stream gate: frame 0 could not be published" in caplog.text


def test_finish_when_boxes_were_found_lists_them_with_what_made_them(served: Served) -> None:
    published = Published()
    captured = Captured(paint((2, 3, "green")), pts_s=1.5)
    assert captured.frame is not None
    published.lane.finish(published.mail(7, captured), served, 0.25, served.detector.detect(captured.frame))
    (message,) = published.messages
    assert message.detections == [wire.Box(1, "green", 1.0, (16.0, 24.0, 24.0, 32.0))]
    assert (message.frame, message.pts_s, message.width, message.height) == (7, 1.5, 64, 64)
    assert (message.outcome, message.reason) == ("ok", None)
    assert (message.model.precision, message.model.device) == ("fp32", "CPU")
    assert message.thresholds == wire.UsedThresholds(confidence=0.9, iou=0.45)
    assert message.timing_ms.queue == 0.25


def test_finish_when_the_device_failed_lists_nothing_at_all(served: Served) -> None:
    published = Published()
    captured = Captured(paint())
    published.lane.finish(published.mail(0, captured), served, 0.0, Unknown("error", "device GPU failed"))
    (message,) = published.messages
    assert (message.outcome, message.reason) == ("error", "device GPU failed")
    assert b'"detections"' not in wire.encode(message)


def test_detections_when_encoded_read_back_the_same(served: Served) -> None:
    published = Published()
    rng = random.Random(1)
    cells = [(rng.randrange(8), rng.randrange(8), rng.choice(["red", "blue"])) for _ in range(12)]
    captured = Captured(paint(*cells))
    assert captured.frame is not None
    published.lane.finish(published.mail(0, captured), served, 0.0, served.detector.detect(captured.frame))
    assert wire.decode(wire.encode(published.messages[0])) == published.messages[0]
