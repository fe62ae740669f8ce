"""Frames sent to a real daemon: each is answered once, with its number or with an error."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
import zmq

from qzd_client import ControlClient, RefusedError
from qzd_client.frame_sender import FrameSender
from qzd_client.requests import ErrorBody, FrameHeader
from qzd_client.subscriber import Client, Detections, StreamState
from qzd_daemon.config.schema import IngestConfig
from qzd_daemon.server.image_requests import PendingRequest, RequestServer
from qzd_daemon.transport.listener import Listener
from qzd_ext.errors import EndpointError, UsageError
from support.configuration import model, publish, sockets
from support.processes import Daemon, wait_until_heard
from support.tiny_model import COLOURS, encode, paint, write_tiny_bundle
from support.waiting import until

CONFIG = (
    publish(heartbeat_ms=100)
    + sockets("control")
    + sockets("ingest", max_image_bytes=200000, max_pixels=65536)
    + model()
)
STREAM = '[streams.{name}]\nsource = "ingest://"\nmodel = "tiny"\n'
EVERY = STREAM.format(name="every") + 'when_behind = "wait"\n'
GATE = STREAM.format(name="gate") + "timeout_s = 0.3\n"
FRAME = paint((1, 2, "red"))


def reading(process: Daemon, *streams: str) -> Daemon:
    """Wait until frames of these streams are taken; until then they are answered `busy`."""
    process.ready()
    until(lambda: all(f"stream {name}: connecting" in process.log for name in streams))
    return process


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for most of these tests."""
    directory = tmp_path_factory.mktemp("ingest")
    bundle = write_tiny_bundle(directory / "tiny")
    process = Daemon(directory, CONFIG.format(directory=directory, bundle=bundle) + EVERY + GATE)
    yield reading(process, "every", "gate")
    assert process.stop() == 0
    assert "Traceback" not in process.log
    process.kill()


@pytest.fixture
def client(served: Daemon) -> Iterator[Client]:
    """Subscribe before anything is sent."""
    with Client(served.endpoint) as client:
        wait_until_heard(client)
        yield client


@pytest.fixture
def sender(served: Daemon) -> Iterator[FrameSender]:
    with FrameSender("every", served.socket_of("ingest"), timeout=20) as sender:
        yield sender


@pytest.fixture
def dealer(served: Daemon) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(served.socket_of("ingest"))
        yield socket


def receive(client: Client, count: int, stream: str = "every") -> list[Detections]:
    """Receive a number of frames of a stream."""
    found: list[Detections] = []
    while len(found) < count:
        event = client.receive(20)
        assert event is not None, found[-3:]
        if isinstance(event, Detections) and event.stream == stream:
            found.append(event)
    return found


def reply(dealer: zmq.Socket[bytes], image: bytes, **header: object) -> dict[str, Any]:
    fields = {"schema": "qzd.ingest/1", "stream": "every", "format": "png", **header}
    dealer.send_multipart([b"1", json.dumps(fields).encode(), image])
    assert dealer.poll(20_000)
    name, answer = dealer.recv_multipart()
    assert name == b"1"
    return dict(json.loads(answer))


def test_send_when_the_stream_waits_delivers_every_frame_in_order(
    client: Client, sender: FrameSender
) -> None:
    numbers = [sender.send(paint((i % 8, 1, COLOURS[i % 3]))) for i in range(200)]
    messages = receive(client, 200)
    assert numbers == list(range(numbers[0], numbers[0] + 200)) == [m.frame for m in messages]
    assert {(m.outcome, m.dropped_before, m.width, m.height) for m in messages} == {("ok", 0, 64, 64)}
    assert [[b.label for b in m.detections or ()] for m in messages[:3]] == [[c] for c in COLOURS]


@pytest.mark.parametrize(
    ("form", "image"),
    [
        ("bgr", FRAME.tobytes()),
        ("bgr", FRAME.data),
        ("png", encode(FRAME)),
        ("jpeg", encode(FRAME, "jpeg")),
    ],
)
def test_send_takes_every_format(
    client: Client, sender: FrameSender, form: Literal["png", "jpeg", "bgr"], image: bytes
) -> None:
    size = (64, 64) if isinstance(image, bytes) and form == "bgr" else None
    number = sender.send(image, form, size=size, pts_s=1.5)
    (message,) = receive(client, 1)
    assert (message.frame, message.pts_s) == (number, 1.5)
    assert [box.label for box in message.detections or ()] == ["red"]


@pytest.mark.parametrize(
    ("stated", "expected"), [(None, "now"), (1_700_000_000_000_000_000, "it"), (2**62, "now")]
)
def test_send_when_a_capture_time_is_stated_hands_it_on_unless_it_lies_ahead(
    client: Client, sender: FrameSender, stated: int | None, expected: str
) -> None:
    before = time.time_ns()
    sender.send(FRAME, captured_ns=stated)
    (message,) = receive(client, 1)
    if expected == "it":
        assert message.captured_ns == stated
    else:
        assert before <= message.captured_ns <= message.published_ns


@pytest.mark.parametrize(
    ("header", "image", "code", "told"),
    [
        ({"stream": "none"}, encode(FRAME), "unknown_stream", False),
        ({"format": "gif"}, b"GIF89a", "bad_request", False),
        ({"captured_ns": -1}, encode(FRAME), "bad_request", False),
        ({"stream": "x" * 5000}, encode(FRAME), "bad_request", False),
        ({"format": "bgr"}, FRAME.tobytes(), "not_an_image", True),
        ({"format": "bgr", "width": 64, "height": 63}, FRAME.tobytes(), "not_an_image", True),
        ({"format": "bgr", "width": 2**40, "height": 2**40}, b"", "too_large", True),
        ({"format": "jpeg"}, encode(FRAME), "not_an_image", True),
        ({}, encode(FRAME)[:100], "not_an_image", True),
        ({}, encode(np.zeros((257, 256, 3), np.uint8)), "too_large", True),
    ],
)
def test_a_frame_when_it_cannot_be_used_is_answered_and_told_to_subscribers(
    client: Client,
    served: Daemon,
    sender: FrameSender,
    dealer: zmq.Socket[bytes],
    header: dict[str, object],
    image: bytes,
    code: str,
    told: bool,
) -> None:
    assert reply(dealer, image, **header)["error"]["code"] == code
    sender.send(FRAME)
    messages = receive(client, 1 + told)
    assert [m.outcome for m in messages] == ["error", "ok"][not told :]
    assert not told or messages[0].reason
    assert f"{code} is answered on the ingest socket" in served.log


@pytest.mark.parametrize(
    "frames", [[b""], [b"1", b"{}"], [b"1", b"\xff", b""], [b"1"] * 7, [b"x" * 300, b"{}", b""]]
)
def test_a_message_when_it_is_malformed_is_answered(dealer: zmq.Socket[bytes], frames: list[bytes]) -> None:
    dealer.send_multipart(frames)
    assert dealer.poll(5000)
    assert json.loads(dealer.recv_multipart()[-1])["error"]["code"] == "bad_request"


def test_send_when_the_socket_is_a_req_is_answered(served: Daemon) -> None:
    with zmq.Context() as context, context.socket(zmq.REQ) as req:
        req.linger = 0
        req.connect(served.socket_of("ingest"))
        assert reply(req, encode(FRAME))["schema"] == "qzd.taken/1"


def test_a_stream_when_its_sender_falls_silent_is_down_until_the_next_frame(
    client: Client, served: Daemon
) -> None:
    states: list[tuple[str, str | None]] = []
    with FrameSender("gate", served.socket_of("ingest")) as sender:
        sender.send(FRAME)
        while len(states) < 3:
            event = client.receive(20)
            assert event is not None, states
            if isinstance(event, StreamState) and event.stream == "gate":
                states.append((event.state, event.reason))
                if event.state == "reconnecting":
                    sender.send(FRAME)
    assert states == [("running", None), ("reconnecting", "no frame was sent for 0.3 s"), ("running", None)]


@pytest.mark.parametrize(
    "image", [FRAME[:, ::2], FRAME.astype(np.float32), FRAME[:, :, :2].copy(), np.zeros((0, 0, 3), np.uint8)]
)
def test_send_when_the_array_is_no_frame_says_what_is(sender: FrameSender, image: np.ndarray) -> None:
    with pytest.raises(UsageError, match="an array of shape"):
        sender.send(image)


def test_send_when_nobody_is_there_says_so_and_sends_nothing_later(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/ingest"
    with FrameSender("every", endpoint, timeout=0.2) as sender:
        with pytest.raises(EndpointError, match=r"no answer in 0\.2 s"):
            sender.send(FRAME)
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            router.linger = 0
            router.bind(endpoint)
            assert not router.poll(1000)


SLOW_CONFIG = CONFIG.replace('device = "CPU"', 'device = "CPU"\nrequests = 1')


def flood(endpoint: str, stream: str, count: int) -> list[dict[str, Any]]:
    """Send a number of frames at once, without waiting for answers; returns the answers."""
    header = json.dumps({"schema": "qzd.ingest/1", "stream": stream, "format": "png"}).encode()
    answers: list[dict[str, Any]] = []
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(endpoint)
        for number in range(count):
            image = encode(paint((number % 8, 0, "red")))
            dealer.send_multipart([str(number).encode(), header, image])
        for _ in range(count):
            assert dealer.poll(30_000), answers
            answers.append(json.loads(dealer.recv_multipart()[1]))
    return answers


def test_a_flood_when_the_stream_drops_leaves_out_the_old_and_when_it_waits_is_pushed_back(
    daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    slow = write_tiny_bundle(tmp_path / "tiny", fault="slow")
    config = SLOW_CONFIG.format(directory=tmp_path, bundle=slow)
    process = reading(daemon(config + EVERY + STREAM.format(name="gate")), "every", "gate")
    with Client(process.endpoint) as client:
        wait_until_heard(client)
        for stream in ("gate", "every"):
            answers = flood(process.socket_of("ingest"), stream, 24)
            taken = [answer["frame"] for answer in answers if "frame" in answer]
            refused = [answer["error"]["code"] for answer in answers if "error" in answer]
            seen: list[Detections] = []
            while not seen or seen[-1].frame != max(taken):
                seen += receive(client, 1, stream)
            assert sorted(taken) == list(range(len(taken)))
            assert set(refused) == ({"busy"} if stream == "every" else set())
            assert len(seen) + sum(m.dropped_before for m in seen) == len(taken)
            if stream == "every":
                assert [m.frame for m in seen] == list(range(len(taken)))
    assert process.stop() == 0


def test_a_stream_when_a_reload_takes_it_away_and_brings_it_back_is_sent_to_again(
    daemon: Callable[..., Daemon], tiny_bundle: Path, tmp_path: Path
) -> None:
    config = CONFIG.format(directory=tmp_path, bundle=tiny_bundle)
    process = daemon(config + EVERY).ready()

    with FrameSender("every", process.socket_of("ingest")) as sender:
        assert [sender.send(FRAME) for _ in range(3)] == [0, 1, 2]
        process.reload(config + GATE)
        with pytest.raises(RefusedError) as caught:
            sender.send(FRAME)
        assert caught.value.fault.code == "unknown_stream"
        assert "Wanted: gate" in caught.value.fault.message
        process.reload(config + EVERY)
        assert [sender.send(FRAME) for _ in range(3)] == [0, 1, 2]
    with ControlClient(f"ipc://{tmp_path}/control") as caller:
        assert caller.status().endpoints["ingest"] == [f"ipc://{tmp_path}/ingest"]
    assert process.stop() == 0


def test_a_stream_when_it_changes_under_load_loses_no_frame_of_a_sender_that_insists(
    daemon: Callable[..., Daemon], tiny_bundle: Path, tmp_path: Path
) -> None:
    config = CONFIG.format(directory=tmp_path, bundle=tiny_bundle)
    process = daemon(config + EVERY).ready()
    stop = threading.Event()
    sent: list[float] = []

    def send() -> None:
        with FrameSender("every", process.socket_of("ingest"), timeout=20) as sender:
            for number in itertools.count():
                sender.send(FRAME, pts_s=number)
                sent.append(number)
                if stop.is_set():
                    return

    with Client(process.endpoint) as client:
        wait_until_heard(client)
        thread = threading.Thread(target=send)
        thread.start()
        for fps in (500, 400, 300):
            time.sleep(0.3)
            process.reload(f"{config}{EVERY}max_fps = {fps}\n")
        stop.set()
        thread.join()
        seen: set[float] = set()
        while len(seen) < len(sent):  # one that was under way at a change may have been looked at twice
            seen |= {m.pts_s for m in receive(client, 1) if m.pts_s is not None}
    assert sorted(seen) == sent
    assert process.stop() == 0


def test_a_stream_of_sent_frames_without_a_socket_is_a_wrong_configuration(
    daemon: Callable[..., Daemon], tiny_bundle: Path, tmp_path: Path
) -> None:
    config = CONFIG.format(directory=tmp_path, bundle=tiny_bundle).partition("[ingest]")[0]
    process = daemon(f'{config}[models.tiny]\nbundle = "{tiny_bundle}"\n{EVERY}')
    assert process.wait() == 2
    assert "streams.every.source: there is no socket to send frames to" in process.log


@pytest.mark.parametrize("source", ["ingest://gate", "zmq://x"])
def test_a_stream_when_its_url_is_another_names_those_that_are_known(
    daemon: Callable[..., Daemon], tiny_bundle: Path, tmp_path: Path, source: str
) -> None:
    config = CONFIG.format(directory=tmp_path, bundle=tiny_bundle) + EVERY.replace("ingest://", source)
    process = daemon(config)
    assert process.wait() == 2
    assert "streams.every.source" in process.log
    assert "ingest://" in process.log


def test_frames_when_the_daemon_stops_are_all_answered(tmp_path: Path) -> None:
    begun, end = threading.Event(), threading.Event()

    def take(_: PendingRequest[FrameHeader]) -> ErrorBody:
        begun.set()
        end.wait(20)
        return ErrorBody("busy", "")

    listener = Listener()
    config = IngestConfig(bind=(f"ipc://{tmp_path}/ingest",))
    server = RequestServer("ingest", config, listener, FrameHeader, take)
    listener.start()
    server.start()
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer, ThreadPoolExecutor() as pool:
        dealer.linger = 0
        dealer.connect(config.bind[0])
        header = msgspec.json.encode(FrameHeader(stream="gate", format="bgr"))
        for number in range(200):
            dealer.send_multipart([str(number).encode(), header, b""])
        assert begun.wait(20)
        closing = pool.submit(server.close)
        until(lambda: server._stopping)
        end.set()
        closing.result(20)
        for number in range(200):
            assert dealer.poll(20_000)
            assert dealer.recv_multipart()[0] == str(number).encode()
        assert not dealer.poll(100)
    listener.close()
    assert server.refused == {"busy": 1, "stopping": 199}
