"""Images to plain ROUTER sockets: `InferenceClient` and `FrameSender`."""

from __future__ import annotations

import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qzd_client import Detections, FrameSender, InferenceClient, RefusedError, messages
from qzd_client.errors import EndpointError, UsageError
from qzd_client.requests import Accepted, ErrorBody, ImageError
from support.peers import Replier

FOUND = Detections(
    stream="", frame=0, captured_ns=1, width=4, height=2, outcome="ok",
    model=messages.ModelInfo("ssd", "4", "sha256:0", "int8", "CPU"),
    timing_ms=messages.StageTimes(0, 0, 0, 0), thresholds=messages.UsedThresholds(0.25, 0.5),
    detections=[messages.Box(1, "car", 0.5, (0, 0, 1, 1))],
)  # fmt: skip
BUSY = ImageError(ErrorBody("busy", "the queue is full"))


class Requests:
    """Answer each request with the next of these replies; keep what was received."""

    def __init__(self, *replies: msgspec.Struct) -> None:
        self._replies = iter(replies)
        self.received: list[tuple[dict[str, Any], bytes]] = []

    def __call__(self, frames: list[bytes]) -> Iterable[list[bytes]]:
        name, header, image = frames
        self.received.append((msgspec.json.decode(header), image))
        yield [b"late", b"{}"]
        yield [name, msgspec.json.encode(next(self._replies))]


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/images"


def without_none(header: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in header.items() if value is not None}


@pytest.mark.parametrize(
    ("arguments", "header"),
    [
        ({"form": "jpeg"}, {"format": "jpeg"}),
        ({"form": "png", "model": "ssd"}, {"format": "png", "model": "ssd"}),
        ({"form": "bgr", "size": (4, 2)}, {"format": "bgr", "width": 4, "height": 2}),
    ],
)
def test_infer_sends_the_image_and_returns_what_was_found(
    endpoint: str, arguments: dict[str, Any], header: dict[str, Any]
) -> None:
    requests = Requests(FOUND)
    with Replier(endpoint, requests), InferenceClient(endpoint, timeout=20) as inference:
        assert inference.infer(b"image", **arguments) == FOUND
    ((sent, image),) = requests.received
    assert (without_none(sent), image) == ({"schema": "qzd.inference/1", **header}, b"image")


def test_infer_when_the_daemon_refuses_raises_it(endpoint: str) -> None:
    with Replier(endpoint, Requests(BUSY)), InferenceClient(endpoint, timeout=20) as inference:
        with pytest.raises(RefusedError) as caught:
            inference.infer(b"image", "png")
        assert caught.value.fault == BUSY.error


def test_infer_when_another_socket_answers_says_so(endpoint: str) -> None:
    with (
        Replier(endpoint, lambda _: [[b"{}"]]),
        InferenceClient(endpoint, timeout=20) as inference,
        pytest.raises(EndpointError, match="not the inference or ingest socket"),
    ):
        inference.infer(b"image", "png")


def frame_bytes(height: int, width: int) -> memoryview:
    """Return pixels as an array of (height, width, 3), as numpy exports them."""
    return memoryview(bytes(range(height * width * 3))).cast("B", (height, width, 3))


@pytest.mark.parametrize(
    ("image", "arguments", "header"),
    [
        (frame_bytes(2, 4), {}, {"format": "bgr", "width": 4, "height": 2}),
        (b"x" * 24, {"size": (4, 2)}, {"format": "bgr", "width": 4, "height": 2}),
        (
            b"png",
            {"form": "png", "captured_ns": 5, "pts_s": 0.5},
            {"format": "png", "captured_ns": 5, "pts_s": 0.5},
        ),
    ],
)  # fmt: skip
def test_send_sends_the_frame_and_returns_its_number(
    endpoint: str, image: bytes | memoryview, arguments: dict[str, Any], header: dict[str, Any]
) -> None:
    requests = Requests(Accepted(7))
    with Replier(endpoint, requests), FrameSender("gate", endpoint, timeout=20) as sender:
        assert sender.send(image, **arguments) == 7
    ((sent, pixels),) = requests.received
    assert without_none(sent) == {"schema": "qzd.ingest/1", "stream": "gate", **header}
    assert pixels == bytes(image)


def test_send_when_the_stream_is_busy_sends_again_until_it_is_taken(endpoint: str) -> None:
    requests = Requests(BUSY, BUSY, Accepted(3))
    with Replier(endpoint, requests), FrameSender("gate", endpoint, timeout=20) as sender:
        assert sender.send(b"png", "png") == 3
    assert len(requests.received) == 3


@pytest.mark.parametrize(
    ("reply", "timeout"), [(BUSY, 0.2), (ImageError(ErrorBody("not_an_image", "no")), 20)]
)
def test_send_when_the_frame_is_not_taken_raises_why(
    endpoint: str, reply: ImageError, timeout: float
) -> None:
    def refuse(frames: list[bytes]) -> Iterator[list[bytes]]:
        yield [frames[0], msgspec.json.encode(reply)]

    with (
        Replier(endpoint, refuse),
        FrameSender("gate", endpoint, timeout=timeout) as sender,
        pytest.raises(RefusedError) as caught,
    ):
        sender.send(b"png", "png")
    assert caught.value.fault == reply.error


@pytest.mark.parametrize(
    "image",
    [
        memoryview(bytes(16)).cast("B", (2, 2, 4)),
        memoryview(bytes(48)).cast("B", (4, 4, 3))[::2],
        array.array("f", [1.0]),
        b"",
    ],
)
def test_send_when_the_array_is_not_a_frame_says_so(endpoint: str, image: Any) -> None:
    with FrameSender("gate", endpoint) as sender, pytest.raises(UsageError, match="uint8, C-contiguous"):
        sender.send(image)
