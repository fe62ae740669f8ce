"""Images sent to a real daemon: the same boxes as elsewhere, and an answer if it is not an image."""

from __future__ import annotations

import gc
import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import zmq

from qzd_client import InferenceClient, RefusedError, messages
from qzd_client.requests import ImageHeader
from qzd_daemon.config.schema import InferenceConfig, ModelConfig
from qzd_daemon.engine import models
from qzd_daemon.engine.queues import FairQueue
from qzd_daemon.engine.requests import RequestLane
from qzd_daemon.engine.scheduler import Scheduler
from qzd_daemon.server.image_requests import RequestServer
from qzd_daemon.server.inference import Inference
from qzd_daemon.transport.listener import Listener
from qzd_ext import bundle
from qzd_ext.detections import Detections as Found
from qzd_ext.detector import Detector
from support.configuration import model, publish, sockets
from support.processes import Daemon
from support.tiny_model import POISON, decode, encode, paint, write_tiny_bundle
from support.waiting import until

CONFIG = (
    publish()
    + sockets("inference", queue=4, max_image_bytes=200000, max_pixels=65536, timeout_ms=20000)
    + model(bundle="{directory}/tiny", requests=1)
)
FRAME = paint((1, 2, "red"), (5, 6, "blue"))
SLOW = paint(POISON) // 8  # the more red, the longer it takes


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all of these tests; a frame with POISON keeps it busy for about a second."""
    directory = tmp_path_factory.mktemp("inference")
    write_tiny_bundle(directory / "tiny", fault="slow")
    process = Daemon(directory, CONFIG.format(directory=directory)).ready()
    yield process
    process.kill()


@pytest.fixture
def endpoint(served: Daemon) -> str:
    return served.socket_of("inference")


@pytest.fixture
def asker(endpoint: str) -> Iterator[InferenceClient]:
    with InferenceClient(endpoint, timeout=20) as asker:
        yield asker


@pytest.fixture
def dealer(endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(endpoint)
        yield socket


def ask(dealer: zmq.Socket[bytes], name: str, image: bytes, **header: object) -> None:
    fields = {"schema": "qzd.inference/1", "format": "png", **header}
    dealer.send_multipart([name.encode(), json.dumps(fields).encode(), image])


def answers(dealer: zmq.Socket[bytes], count: int) -> dict[str, str]:
    """By id: the error's code, or ok."""
    found: dict[str, str] = {}
    for _ in range(count):
        assert dealer.poll(20_000), found
        name, reply = dealer.recv_multipart()
        found[name.decode()] = json.loads(reply).get("error", {"code": "ok"})["code"]
    return found


@pytest.mark.parametrize("form", ["png", "jpeg", "bgr"])
def test_infer_gives_the_boxes_that_the_detector_gives(
    asker: InferenceClient, served: Daemon, form: Literal["png", "jpeg", "bgr"]
) -> None:
    image = FRAME.tobytes() if form == "bgr" else encode(FRAME, form)
    message = asker.infer(image, form, size=(64, 64) if form == "bgr" else None)
    frame = FRAME if form == "bgr" else decode(image)
    with Detector(bundle.read(Path(served.endpoint.removeprefix("ipc://")).parent / "tiny")) as detector:
        found = detector.detect(frame).found
    assert isinstance(found, Found)
    assert (message.stream, message.seq, message.outcome, message.width) == ("", 0, "ok", 64)
    assert [box.class_id for box in message.detections or ()] == found.class_ids.tolist() != []
    for box, expected in zip(message.detections or (), found.boxes.tolist(), strict=True):
        assert box.box == pytest.approx(expected, abs=5e-4)


def test_infer_when_nothing_is_there_says_so_by_an_empty_list(asker: InferenceClient) -> None:
    assert asker.infer(encode(paint()), "png", model="tiny").detections == []


@pytest.mark.parametrize(
    ("header", "image", "code"),
    [
        ({"model": "none"}, encode(FRAME), "unknown_model"),
        ({"format": "gif"}, b"GIF89a", "bad_request"),
        ({"timeout_ms": 0}, encode(FRAME), "bad_request"),
        ({"format": "bgr"}, FRAME.tobytes(), "not_an_image"),
        ({"format": "bgr", "width": 64, "height": 63}, FRAME.tobytes(), "not_an_image"),
        ({"format": "bgr", "width": 2**40, "height": 2**40}, b"", "too_large"),
        ({"format": "jpeg"}, encode(FRAME), "not_an_image"),
        ({}, b"", "not_an_image"),
        ({}, encode(np.zeros((257, 256, 3), np.uint8)), "too_large"),
        ({"model": "x" * 5000}, encode(FRAME), "bad_request"),
    ],
)
def test_infer_when_it_cannot_be_done_says_why(
    dealer: zmq.Socket[bytes], header: dict[str, object], image: bytes, code: str
) -> None:
    ask(dealer, "7", image, **header)
    assert answers(dealer, 1) == {"7": code}


@pytest.mark.parametrize(
    "frames", [[b""], [b"1", b"{}"], [b"1", b"\xff", b""], [b"1"] * 7, [b"x" * 300, b"{}", b""]]
)
def test_infer_when_malformed_is_answered(dealer: zmq.Socket[bytes], frames: list[bytes]) -> None:
    dealer.send_multipart(frames)
    assert dealer.poll(5000)
    assert json.loads(dealer.recv_multipart()[-1])["error"]["code"] == "bad_request"


def test_infer_when_the_queue_is_full_answers_busy_at_once_and_the_rest_in_time(
    dealer: zmq.Socket[bytes],
) -> None:
    slow = encode(SLOW)
    for number in range(8):
        ask(dealer, str(number), slow)
    busy = answers(dealer, 4)
    assert busy == dict.fromkeys("4567", "busy")
    assert answers(dealer, 4) == dict.fromkeys("0123", "ok")


def test_infer_when_the_deadline_passes_is_taken_out_of_the_queue(dealer: zmq.Socket[bytes]) -> None:
    ask(dealer, "slow", encode(SLOW))
    for name in ("a", "b", "c"):
        ask(dealer, name, encode(SLOW), timeout_ms=50)
    assert answers(dealer, 3) == dict.fromkeys("abc", "timeout")
    ask(dealer, "next", encode(FRAME))
    assert answers(dealer, 2) == {"slow": "ok", "next": "ok"}


def test_infer_when_the_socket_is_a_req_is_answered(endpoint: str) -> None:
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.linger = 0
        socket.connect(endpoint)
        ask(socket, "1", encode(FRAME))
        assert answers(socket, 1) == {"1": "ok"}


def test_infer_when_many_ask_at_once_answers_each_with_its_own(asker: InferenceClient, endpoint: str) -> None:
    with zmq.Context() as context:
        dealers = [context.socket(zmq.DEALER) for _ in range(4)]
        for i, one in enumerate(dealers):
            one.linger = 0
            one.connect(endpoint)
            ask(one, f"id{i}", encode(paint((i, i, "green"))))
        for i, one in enumerate(dealers):
            assert one.poll(20_000)
            name, reply = one.recv_multipart()
            message = json.loads(reply)
            assert "detections" in message, message
            (box,) = message["detections"]
            assert (name, box["box"][0]) == (f"id{i}".encode(), 8.0 * i)
            one.close()


def test_infer_when_there_is_room_for_one_takes_the_next_from_who_has_the_last_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, answer = threading.Event(), RequestServer.answer

    def answer_and_linger(server: RequestServer[ImageHeader], *answered: Any) -> None:
        answer(server, *answered)
        go_on.wait(20)

    monkeypatch.setattr(RequestServer, "answer", answer_and_linger)
    listener = Listener()
    inference = Inference(InferenceConfig(bind=(f"ipc://{tmp_path}/i",), queue=1), listener, "epoch", dict)
    inference.start()
    try:
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.connect(f"ipc://{tmp_path}/i")
            ask(dealer, "1", encode(FRAME))
            assert answers(dealer, 1) == {"1": "unknown_model"}
            ask(dealer, "2", encode(FRAME))
            assert not dealer.poll(200)
            go_on.set()
            assert answers(dealer, 1) == {"2": "unknown_model"}
    finally:
        go_on.set()
        inference.close()
        listener.close()


@pytest.mark.parametrize(("left", "code"), [((), "unknown_model"), (("tiny",), "stopping")])
def test_infer_when_the_model_goes_meanwhile_is_told_at_once(
    tmp_path: Path, left: tuple[str, ...], code: str
) -> None:
    request_lane, listener = RequestLane(FairQueue()), Listener()
    request_lane.close()
    request_lanes = iter([{"tiny": request_lane}])
    config = InferenceConfig(bind=(f"ipc://{tmp_path}/inference",))
    inference = Inference(
        config, listener, "epoch", lambda: next(request_lanes, dict.fromkeys(left, request_lane))
    )
    inference.start()
    try:
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.connect(f"ipc://{tmp_path}/inference")
            ask(dealer, "1", encode(FRAME), timeout_ms=4000)
            assert answers(dealer, 1) == {"1": code}
    finally:
        inference.close()
        listener.close()


def test_request_lane_when_a_request_is_answered_keeps_nothing_of_its_frame(tiny_bundle: Path) -> None:
    """A frame may have 120 MB, and the collector of garbage comes by only after hundreds of requests."""
    served = models.load("tiny", ModelConfig(bundle=str(tiny_bundle), device="CPU"), None)
    scheduler = Scheduler("tiny", served, lambda _: None, lambda _: None, 30)
    scheduler.start()
    frame, answered, asked = FRAME.copy(), threading.Event(), dict[str, object]()
    kept = weakref.ref(frame)

    def answer(message: messages.Detections) -> None:
        asked["answer"] = message
        answered.set()

    gc.disable()
    try:
        asked["cancel"] = scheduler.request_lane.submit(frame, answer)
        del frame
        assert answered.wait(20)
        until(lambda: kept() is None)
    finally:
        gc.enable()
        assert scheduler.stop(20)


def test_infer_when_the_daemon_stops_says_so(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "tiny", fault="slow")
    config = CONFIG.format(directory=tmp_path) + "[service]\nstop_timeout_s = 0.1\n"
    process = daemon(config).ready()
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(f"ipc://{tmp_path}/inference")
        for name in ("a", "b"):
            ask(dealer, name, encode(paint(POISON)))
        time.sleep(0.3)
        process.process.terminate()
        assert dealer.poll(10_000)
        replies = [dealer.recv_multipart()]
        while dealer.poll(1000):
            replies.append(dealer.recv_multipart())
    assert {name for name, _ in replies} == {b"a", b"b"}
    assert all(json.loads(reply).get("outcome") != "ok" for _, reply in replies)


def test_caller_when_the_answer_is_no_raises_it(asker: InferenceClient) -> None:
    with pytest.raises(RefusedError) as caught:
        asker.infer(b"", "png")
    assert caught.value.fault.code == "not_an_image"


def test_answer_is_a_message_of_the_wire(dealer: zmq.Socket[bytes]) -> None:
    ask(dealer, "1", encode(FRAME))
    assert dealer.poll(20_000)
    message = messages.decode(dealer.recv_multipart()[1])
    assert isinstance(message, messages.Detections)
    assert message.epoch
