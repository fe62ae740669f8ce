"""210,000 malformed inputs to the sockets that take them: no crash, hang or growth, and then an answer."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest
import zmq

from qzd_client import ControlClient, InferenceClient, RefusedError, messages
from qzd_client.frame_sender import FrameSender
from qzd_client.requests import SelfTestResult
from qzd_client.subscriber import Client, Detections
from support.configuration import model, publish, sockets, stream, table
from support.processes import Daemon, wait_until_heard
from support.tiny_model import paint

pytestmark = pytest.mark.system

SEED = 20_240_607
INPUTS = 70_000  # on each of the three sockets
STRANGERS = 300
GROWTH_BYTES = 24 * 2**20
CONFIG = (
    publish()
    + table("control", bind=("ipc://{directory}/control", "tcp://127.0.0.1:*"))
    + sockets("inference", max_image_bytes=100000, max_pixels=100000)
    + sockets("ingest", max_image_bytes=100000, max_pixels=100000)
    + stream("gate", "ingest://")
    + model()
)
CALL = {"schema": "qzd.control/1", "id": 7, "op": "", "model": "tiny", "version": "1", "bundle": "/x"}
OPS = ("ping", "status", "streams", "models", "snapshot", "swap", "rollback", "load", "nonsense", "")
HEADER = {"schema": "qzd.inference/1", "model": "tiny", "width": 64, "height": 64, "timeout_ms": 50}
SENT = {**HEADER, "schema": "qzd.ingest/1", "stream": "gate", "captured_ns": 1, "pts_s": 0.5}
VALUES: tuple[object, ...] = (
    None, -1, 0, 2**63, 2**70, 1.5, 1e400, "", "\x00", "é" * 300, [], {}, [[]], True, "../..", "png",
)  # fmt: skip


@pytest.fixture
def served(daemon: Callable[..., Daemon], tiny_bundle: Path, tmp_path: Path) -> Daemon:
    return daemon(CONFIG.format(directory=tmp_path, bundle=tiny_bundle), "--log-level", "error").ready()


def resident_bytes(process: Daemon) -> int:
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


def damaged(chance: random.Random, whole: bytes) -> bytes:
    """Return a piece of it, with some bytes changed, or bytes that have nothing to do with it."""
    match chance.randrange(5):
        case 0:
            return whole[: chance.randrange(len(whole) + 1)]
        case 1:
            return chance.randbytes(chance.randrange(200))
        case 2:
            return b"[" * chance.randrange(8000)
        case _:
            changed = bytearray(whole)
            for _ in range(chance.randrange(1, 6)):
                changed[chance.randrange(len(changed))] = chance.randrange(256)
            return bytes(changed)


def odd_object(chance: random.Random, good: dict[str, object]) -> bytes:
    """Make an object with fields missing, too many, or of wrong values."""
    fields = {name: value for name, value in good.items() if chance.random() > 0.15}
    for name in chance.sample(list(good), chance.randrange(1, 3)):
        fields[name] = chance.choice(VALUES)
    if chance.random() < 0.2:
        fields[str(chance.random())] = chance.choice(VALUES)
    return json.dumps(fields).encode()


def odd_calls(chance: random.Random) -> Iterator[list[bytes]]:
    while True:
        call = odd_object(chance, {**CALL, "op": chance.choice(OPS)})
        content = call if chance.random() < 0.5 else damaged(chance, call)
        yield [content] if chance.random() < 0.8 else [content] * chance.randrange(2, 6)


def odd_images(chance: random.Random, good: dict[str, object] = HEADER) -> Iterator[list[bytes]]:
    frame = paint((1, 2, "red"))
    pictures = {form: cv2.imencode(f".{form}", frame)[1].tobytes() for form in ("png", "jpg")}
    pictures["bgr"] = frame.tobytes()
    while True:
        form, picture = chance.choice(list(pictures.items()))
        header = {**good, "format": {"jpg": "jpeg"}.get(form, form)}
        if chance.random() < 0.5:  # a header that is right, an image that is not
            yield [b"1", json.dumps(header).encode(), damaged(chance, picture)]
        else:
            odd = odd_object(chance, header)
            frames = [b"1", odd if chance.random() < 0.7 else damaged(chance, odd), picture]
            yield frames if chance.random() < 0.8 else frames * chance.randrange(0, 3) + [b""]


def odd_frames(chance: random.Random) -> Iterator[list[bytes]]:
    return odd_images(chance, SENT)


def flood(endpoint: str, inputs: Iterator[list[bytes]], count: int) -> int:
    """Send a number of messages; returns how many were answered."""
    answered = 0
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 1000
        dealer.connect(endpoint)
        for _ in range(count):
            dealer.send_multipart(next(inputs))
            with contextlib.suppress(zmq.Again):
                while True:
                    dealer.recv_multipart(zmq.NOBLOCK)
                    answered += 1
        while dealer.poll(1000):
            dealer.recv_multipart()
            answered += 1
    return answered


def _infer_when_not_busy(asker: InferenceClient) -> messages.Detections:
    """Infer as a proper client does, which waits until what the flood left is answered."""
    image = cv2.imencode(".png", paint((1, 2, "red")))[1].tobytes()
    end = time.monotonic() + 20
    while True:
        try:
            return asker.infer(image, "png")
        except RefusedError as error:
            if error.fault.code != "busy" or time.monotonic() > end:
                raise
            time.sleep(0.05)


def _send_and_receive(process: Daemon, endpoint: str) -> messages.Detections:
    """Send a proper frame; returns what is published of it."""
    with Client(process.endpoint) as client, FrameSender("gate", endpoint, timeout=20) as sender:
        wait_until_heard(client)
        number = sender.send(paint((1, 2, "red")))
        while True:
            event = client.receive(20)
            assert event is not None
            if isinstance(event, Detections) and event.frame == number:
                return event


@pytest.mark.parametrize(
    ("name", "odd"), [("control", odd_calls), ("inference", odd_images), ("ingest", odd_frames)]
)
def test_daemon_when_flooded_with_malformed_input_answers_the_next_proper_request(
    served: Daemon,
    tmp_path: Path,
    name: str,
    odd: Callable[[random.Random], Iterator[list[bytes]]],
) -> None:
    endpoint = f"ipc://{tmp_path}/{name}"
    inputs = odd(random.Random(SEED))
    flood(endpoint, inputs, INPUTS // 5)
    before = resident_bytes(served)
    answered = flood(endpoint, inputs, INPUTS - INPUTS // 5)
    assert answered > INPUTS // 4  # who sends without reading loses answers
    with (
        ControlClient(f"ipc://{tmp_path}/control", timeout=20) as caller,
        InferenceClient(f"ipc://{tmp_path}/inference") as asker,
    ):
        assert caller.self_test() == SelfTestResult(["tiny"])
        sent = _send_and_receive(served, f"ipc://{tmp_path}/ingest")
        for found in (_infer_when_not_busy(asker), sent):
            assert [box.label for box in found.detections or ()] == ["red"]
    growth = resident_bytes(served) - before
    assert growth < GROWTH_BYTES, f"grown by {growth / 2**20:.1f} MB"
    assert served.stop() == 0
    assert "Traceback" not in served.log


def test_daemon_when_strangers_speak_no_zmtp_answers_the_next_proper_request(
    served: Daemon, tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    with ControlClient(f"ipc://{tmp_path}/control") as caller:
        (_, tcp) = caller.status().endpoints["control"]
        host, _, port = tcp.removeprefix("tcp://").rpartition(":")
        for _ in range(STRANGERS):
            with socket.create_connection((host, int(port))) as stranger, contextlib.suppress(OSError):
                stranger.sendall(chance.randbytes(chance.randrange(1, 500)))
        assert caller.ping().version
        assert caller.status().refused
    assert served.stop() == 0
