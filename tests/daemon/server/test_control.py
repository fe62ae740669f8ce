"""The control socket of a real daemon: every operation, and every malformed request."""

from __future__ import annotations

import json
import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zmq
from msgspec import structs

from qzd_client import ControlClient, RefusedError, __version__, messages
from qzd_client.requests import DeviceStatus, ModelStatus, Request, SelfTestResult
from qzd_daemon.config.schema import ControlConfig
from qzd_daemon.server.control import Control, Operation
from qzd_daemon.transport.listener import Listener
from qzd_ext.errors import EndpointError
from support.configuration import model, publish, sockets, stream
from support.processes import Daemon
from support.tiny_model import paint, write_tiny_bundle
from support.videos import write_clip
from support.waiting import until

CONFIG = (
    publish() + sockets("control") + model(bundle="{directory}/tiny") + stream("clip", "{directory}/clip.mp4")
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all of these tests: what they change, they put back."""
    directory = tmp_path_factory.mktemp("control")
    for version in ("1", "2"):
        write_tiny_bundle(directory / "tiny" / version, version=version)
    write_tiny_bundle(directory / "tiny" / "0", version="0", golden_label="green")
    write_clip(directory / "clip.mp4", [paint((0, 0, "red"))] * 10)
    process = Daemon(directory, CONFIG.format(directory=directory)).ready()
    yield process
    process.kill()


@pytest.fixture
def endpoint(served: Daemon) -> str:
    return served.socket_of("control")


@pytest.fixture
def caller(endpoint: str) -> Iterator[ControlClient]:
    with ControlClient(endpoint, timeout=20) as caller:
        yield caller


def stable(models: list[ModelStatus]) -> list[ModelStatus]:
    """Leave out what changes by itself: the age of the last self-test."""
    return [structs.replace(model, self_test=None) for model in models]


def exchange(endpoint: str, kind: int, *frames: bytes) -> list[bytes]:
    with zmq.Context() as context, context.socket(kind) as socket:
        socket.linger = 0
        socket.connect(endpoint)
        socket.send_multipart(frames)
        assert socket.poll(10_000), "no answer"
        return socket.recv_multipart()


def test_ping_gives_version_and_epoch(endpoint: str) -> None:
    with ControlClient(endpoint, timeout=math.inf) as caller:
        assert caller.ping().version == __version__
        assert uuid.UUID(caller.ping().epoch)


def test_status_tells_of_sockets_streams_and_models(caller: ControlClient, served: Daemon) -> None:
    status = caller.status()
    assert status.pid == served.process.pid
    assert status.endpoints["publish"] == [served.endpoint]
    assert [stream.name for stream in status.streams] == ["clip"]
    assert [stream.name for stream in caller.streams()] == ["clip"]
    assert [model.model.name for model in status.models] == ["tiny"]


def test_devices_names_those_who_use_them(caller: ControlClient) -> None:
    assert DeviceStatus("CPU", ["tiny"]) in caller.devices()


def test_snapshot_gives_the_last_message_of_each_topic(caller: ControlClient) -> None:
    snapshot = caller.snapshot()
    topics = {entry.topic: messages.decode(bytes(entry.message)) for entry in snapshot.messages}
    assert topics["qzd/1/model/tiny/"].epoch == snapshot.epoch
    assert all(message.seq >= 1 for message in topics.values())


def test_swap_and_rollback_change_the_bundle_that_serves(caller: ControlClient) -> None:
    assert caller.swap("tiny", "1").model.version == "1"
    assert caller.rollback("tiny").model.version == "2"


def test_load_serves_one_more_model_until_it_is_unloaded(caller: ControlClient, served: Daemon) -> None:
    bundle = f"{Path(served.endpoint.removeprefix('ipc://')).parent}/tiny/1"
    assert caller.load("more", bundle, "CPU").model.name == "more"
    assert caller.self_test() == SelfTestResult(["tiny", "more"])
    assert caller.self_test("more") == SelfTestResult(["more"])
    caller.unload("more")
    assert len(caller.models()) == 1


def test_call_when_a_link_leads_to_a_name_that_is_no_utf8_is_answered(
    caller: ControlClient, tmp_path: Path
) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    write_tiny_bundle(odd)
    link = tmp_path / "link"
    link.symlink_to(odd)
    assert caller.load("odd", str(link), "CPU").bundle == f"{tmp_path}/caf?"
    caller.unload("odd")
    (odd / "model.bin").write_bytes(b"damaged")
    with pytest.raises(RefusedError, match=r"/caf\?: model\.bin has sha256") as caught:
        caller.load("odd", str(link))
    assert caught.value.fault.code == "bundle"


def test_reload_when_nothing_has_changed_changes_nothing(caller: ControlClient) -> None:
    before = stable(caller.models())
    caller.reload()
    assert stable(caller.models()) == before


@pytest.mark.parametrize(
    ("op", "arguments", "code", "exit_code"),
    [
        ("nonsense", {}, "unknown_op", 2),
        ("swap", {"model": "none", "version": "1"}, "unknown_model", 2),
        ("swap", {"version": "1"}, "usage", 2),
        ("swap", {"model": "tiny"}, "usage", 2),
        ("swap", {"model": "tiny", "version": "7"}, "usage", 2),
        ("swap", {"model": "tiny", "version": "../tiny/1"}, "usage", 2),
        ("swap", {"model": "tiny", "version": "0"}, "gate", 1),
        ("load", {"model": "tiny", "bundle": "/nowhere"}, "usage", 2),
        ("load", {"model": "more", "bundle": "relative"}, "usage", 2),
        ("load", {"model": "a/b", "bundle": "/nowhere"}, "usage", 2),
        ("load", {"model": "more", "bundle": "/nowhere"}, "bundle", 3),
        ("unload", {"model": "tiny"}, "usage", 2),
    ],
)
def test_call_when_it_cannot_be_done_is_refused_and_what_served_serves_on(
    caller: ControlClient, op: str, arguments: dict[str, str], code: str, exit_code: int
) -> None:
    before = stable(caller.models())
    with pytest.raises(RefusedError) as caught:
        caller._call(op, type(None), **arguments)
    assert (caught.value.fault.code, caught.value.exit_code) == (code, exit_code)
    assert stable(caller.models()) == before


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ((b"",), None),
        ((b"{",), None),
        ((b"\xff\xfe",), None),
        ((b"[" * 10_000,), None),
        ((b"[]",), None),
        ((b'{"schema":"qzd.control/2","id":3,"op":"ping"}',), 3),
        ((b'{"schema":"qzd.control/1","id":"x","op":5}',), "x"),
        ((b'{"schema":"qzd.control/1","id":{},"op":"ping"}',), None),
        ((b'{"schema":"qzd.control/1","id":1,"op":"ping","model":1e999}',), 1),
        ((b'{"schema":"qzd.control/1","op":"ping"}', b"more"), None),
    ],
)
def test_call_when_malformed_is_answered_with_what_is_wrong(
    endpoint: str, frames: tuple[bytes, ...], expected: object
) -> None:
    (reply,) = exchange(endpoint, zmq.DEALER, *frames)
    answer = json.loads(reply)
    assert (answer["id"], answer["ok"], answer["error"]["code"]) == (expected, False, "bad_request")
    assert "Wanted:" in answer["error"]["message"]


def test_call_when_its_socket_is_a_req_is_answered(endpoint: str) -> None:
    (reply,) = exchange(endpoint, zmq.REQ, b'{"schema":"qzd.control/1","id":1,"op":"ping","new":1}')
    assert json.loads(reply)["ok"]


def test_call_when_oversized_ends_its_connection_alone(endpoint: str, caller: ControlClient) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(endpoint)
        socket.send(b"x" * 20_000)
        assert not socket.poll(300)
    assert caller.ping()


def test_long_calls_when_too_many_are_answered_busy_and_short_ones_pass(
    endpoint: str, caller: ControlClient
) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(endpoint)
        for number in range(40):
            call = {"schema": "qzd.control/1", "id": number, "op": "swap", "model": "tiny", "version": "2"}
            socket.send(json.dumps(call).encode())
        assert caller.ping()
        answers: list[dict[str, Any]] = []
        for _ in range(40):
            assert socket.poll(20_000)
            answers.append(json.loads(socket.recv()))
    assert sorted(answer["id"] for answer in answers) == list(range(40))
    codes = [answer["error"]["code"] for answer in answers if not answer["ok"]]
    assert set(codes) == {"busy"}


def test_caller_when_nobody_answers_says_so(tmp_path: Path) -> None:
    nobody = ControlClient(f"ipc://{tmp_path}/nobody", timeout=0.1)
    with nobody, pytest.raises(EndpointError, match="no answer"):
        nobody.ping()


def test_caller_when_its_connection_ends_says_so_and_reconnects(caller: ControlClient) -> None:
    with pytest.raises(EndpointError, match="connection ended before the answer"):
        caller._call("x" * 20_000, type(None))  # more than the daemon takes
    assert caller.ping()


def test_long_call_when_the_daemon_stops_is_answered(tmp_path: Path) -> None:
    begun, end = threading.Event(), threading.Event()

    def swap(_: Request) -> None:
        begun.set()
        end.wait(20)

    listener = Listener()
    config = ControlConfig(bind=(f"ipc://{tmp_path}/control",))
    control = Control(config, listener, {"swap": Operation(swap, long=True)})
    listener.start()
    control.start()
    with ControlClient(config.bind[0], timeout=20) as caller, ThreadPoolExecutor() as pool:
        answer = pool.submit(caller.swap, "tiny", "2")
        assert begun.wait(20)
        control.close()
        fault = answer.exception(20)
    end.set()
    listener.close()
    assert isinstance(fault, RefusedError)
    assert fault.fault.code == "stopping"


def test_call_when_its_result_exceeds_the_largest_message_is_refused(tmp_path: Path) -> None:
    listener = Listener()
    config = ControlConfig(bind=(f"ipc://{tmp_path}/control",))
    much = {"models": ["x" * messages.MAX_MESSAGE_BYTES]}
    control = Control(config, listener, {"self_test": Operation(lambda _: much)})
    listener.start()
    control.start()
    with ControlClient(config.bind[0], timeout=20) as caller:
        with pytest.raises(RefusedError) as caught:
            caller.self_test()
        assert caught.value.fault.code == "too_large"
    control.close()
    listener.close()


def test_calls_when_the_daemon_stops_are_all_answered(tmp_path: Path) -> None:
    begun, end = threading.Event(), threading.Event()

    def ping(_: Request) -> None:
        begun.set()
        end.wait(20)

    listener = Listener()
    config = ControlConfig(bind=(f"ipc://{tmp_path}/control",))
    control = Control(config, listener, {"ping": Operation(ping)})
    listener.start()
    control.start()
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer, ThreadPoolExecutor() as pool:
        dealer.linger = 0
        dealer.connect(config.bind[0])
        for number in range(200):
            dealer.send(json.dumps({"schema": "qzd.control/1", "id": number, "op": "ping"}).encode())
        assert begun.wait(20)
        closing = pool.submit(control.close)
        until(lambda: control._stopping)
        end.set()
        closing.result(20)
        for number in range(200):
            assert dealer.poll(20_000)
            reply = json.loads(dealer.recv())
            assert reply["id"] == number
            assert number == 0 or reply["error"]["code"] == "stopping"
        assert not dealer.poll(100)
    listener.close()


def test_caller_when_the_daemon_dies_as_it_asks_says_so_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = f"ipc://{tmp_path}/control"
    with zmq.Context() as context, ControlClient(endpoint, timeout=0.5) as caller:
        router = context.socket(zmq.ROUTER)
        router.bind(endpoint)
        endings = caller._endings

        def die_and_poll(timeout: int) -> int:
            router.close(linger=0)
            time.sleep(0.1)
            return endings.poll(timeout)

        watched = SimpleNamespace(poll=die_and_poll, recv_multipart=endings.recv_multipart)
        monkeypatch.setattr(caller, "_endings", watched)
        with pytest.raises(EndpointError, match=r"no answer in 0\.5 s"):
            caller.ping()


def test_caller_when_only_other_answers_come_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/control"
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router, ThreadPoolExecutor() as pool:
        router.linger = 0
        router.bind(endpoint)
        with ControlClient(endpoint, timeout=0.5) as caller:
            fault = pool.submit(caller.ping)
            name, _ = router.recv_multipart()

            def answer_another() -> bool:
                router.send_multipart([name, b'{"id":0,"ok":true,"result":null}'])
                return fault.done()

            until(answer_another)
            assert isinstance(fault.exception(), EndpointError)


def test_daemon_when_control_has_no_endpoint_serves_without(
    daemon: Callable[..., Daemon], tiny_bundle: Path
) -> None:
    process = daemon(publish() + model(bundle=str(tiny_bundle))).ready()
    assert process.stop() == 0
    assert "control on no socket" in process.log
