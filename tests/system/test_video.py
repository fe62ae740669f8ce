"""A real video through a real quantized model: every frame, in order, with the same boxes as offline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from qzd_client.subscriber import Client, Detections, Event, StreamState
from qzd_ext import bundle
from qzd_ext.detections import Detections as Found
from qzd_ext.detector import Detector
from support.configuration import model, publish, stream
from support.processes import Daemon
from support.videos import read_frames

pytestmark = [pytest.mark.system, pytest.mark.data]

CONFIG = (
    publish(wait_for_subscribers=1)
    + model("yolox")
    + stream("street", "{video}", "yolox", when_behind="wait")
)
DECODABLE = 459  # the file's header says 467


def test_daemon_on_a_street_publishes_every_frame_with_its_boxes(
    daemon: Callable[..., Daemon], yolox_int8: Path, data: Path
) -> None:
    video = data / "videos/person-bicycle-car-detection.mp4"
    process = daemon(CONFIG.format(bundle=yolox_int8, video=video), "--until-idle")
    with Client(process.endpoint) as client:
        events = list(_until_ended(client))
    assert process.wait() == 3, process.log  # its header promises more than there is
    messages = [e for e in events if isinstance(e, Detections)]
    assert [(m.seq, m.frame) for m in messages] == [(i + 1, i) for i in range(DECODABLE)]
    assert {m.outcome for m in messages} == {"ok"}
    labels = Counter(box.label for m in messages for box in m.detections or ())
    assert {"person", "bicycle", "car"} <= labels.keys()
    for message in messages:
        for box in message.detections or ():
            x0, y0, x1, y1 = box.box
            assert 0 <= x0 < x1 <= message.width == 768
            assert 0 <= y0 < y1 <= message.height == 432
    end = events[-1]
    assert isinstance(end, StreamState)
    assert "its header promises 467" in (end.reason or "")
    _compare_offline(messages, yolox_int8, video)


def _until_ended(client: Client) -> list[Event]:
    events: list[Event] = []
    while not (events and isinstance(events[-1], StreamState) and events[-1].state == "ended"):
        event = client.receive(60)
        assert event is not None, events[-1:]
        events.append(event)
    return events


def _compare_offline(messages: list[Detections], bundle_path: Path, video: Path) -> None:
    """Compare with the same frames, read by OpenCV, through the same model without the daemon."""
    with Detector(bundle.read(bundle_path)) as detector:
        for message, frame in zip(messages, read_frames(video), strict=True):
            found = detector.detect(frame).found
            assert isinstance(found, Found)
            boxes = message.detections or []
            assert [b.class_id for b in boxes] == found.class_ids.tolist(), message.frame
            assert [b.score for b in boxes] == pytest.approx(found.scores.tolist(), abs=1e-4)
            for box, expected in zip(boxes, found.boxes.tolist(), strict=True):
                assert box.box == pytest.approx(expected, abs=1e-2)
