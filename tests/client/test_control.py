"""Calls on a plain ROUTER socket: what is sent, what is returned, and replies that are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qzd_client import ControlClient, RefusedError, messages
from qzd_client.errors import EndpointError
from qzd_client.requests import (
    DeviceStatus,
    ModelStatus,
    Pong,
    SelfTestResult,
    Snapshot,
    SnapshotEntry,
    Status,
    StreamStatus,
)
from support.peers import Replier

MODEL = ModelStatus(
    model=messages.ModelInfo("ssd", "4", "sha256:0", "int8", "CPU"),
    bundle="/models/ssd/4",
    device="AUTO",
    requests=2,
    task="detection",
    input=(300, 300),
    labels=90,
    thresholds=messages.UsedThresholds(0.25, 0.5),
)
STREAM = StreamStatus(
    name="gate", source="rtsp://camera/", models=["ssd"], when_behind="drop", state="waiting", reason=None,
    frames=0, damaged=0,
)  # fmt: skip
STATUS = Status(
    version="1", epoch="e", pid=1, started_ns=2, endpoints={"publish": []}, connections={}, refused={},
    published={"t/": 1}, subscriptions=0, streams=[STREAM], models=[MODEL],
)  # fmt: skip
SNAPSHOT = Snapshot("e", [SnapshotEntry("t/", msgspec.Raw(b'{"seq":1}'))])

Answer = Callable[[dict[str, Any]], object]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., ControlClient]]:
    """Start a control socket whose replies are made by functions, one after another, from each call."""
    opened: list[ControlClient | Replier] = []

    def start(*answers: Answer, timeout: float = 20) -> ControlClient:
        def answer(frames: list[bytes]) -> Iterator[list[bytes]]:
            for make in answers:
                yield [msgspec.json.encode(make(msgspec.json.decode(frames[0])))]

        opened.append(Replier(f"ipc://{tmp_path}/control", answer))
        client = ControlClient(f"ipc://{tmp_path}/control", timeout=timeout)
        opened.append(client)
        return client

    yield start
    for one in reversed(opened):
        one.close()


def done(result: object) -> Answer:
    return lambda call: {"id": call["id"], "ok": True, "result": result, "added_later": 1}


@pytest.mark.parametrize(
    ("call", "sent", "result"),
    [
        (lambda c: c.ping(), {"op": "ping"}, Pong("1", "e")),
        (lambda c: c.status(), {"op": "status"}, STATUS),
        (lambda c: c.streams(), {"op": "streams"}, [STREAM]),
        (lambda c: c.models(), {"op": "models"}, [MODEL]),
        (lambda c: c.devices(), {"op": "devices"}, [DeviceStatus("CPU", ["ssd"])]),
        (lambda c: c.snapshot(), {"op": "snapshot"}, SNAPSHOT),
        (lambda c: c.self_test(), {"op": "self_test"}, SelfTestResult(["ssd"])),
        (lambda c: c.self_test("ssd"), {"op": "self_test", "model": "ssd"}, SelfTestResult(["ssd"])),
        (lambda c: c.load("a", "/b"), {"op": "load", "model": "a", "bundle": "/b"}, MODEL),
        (
            lambda c: c.load("a", "/b", "GPU"),
            {"op": "load", "model": "a", "bundle": "/b", "device": "GPU"},
            MODEL,
        ),
        (lambda c: c.swap("ssd", "4"), {"op": "swap", "model": "ssd", "version": "4"}, MODEL),
        (lambda c: c.rollback("ssd"), {"op": "rollback", "model": "ssd"}, MODEL),
        (lambda c: c.unload("ssd"), {"op": "unload", "model": "ssd"}, None),
        (lambda c: c.reload(), {"op": "reload"}, None),
    ],
    ids=lambda value: value["op"] if isinstance(value, dict) else None,
)
def test_call_sends_its_arguments_and_returns_the_typed_result(
    serve: Callable[..., ControlClient],
    call: Callable[[ControlClient], object],
    sent: dict[str, str],
    result: object,
) -> None:
    calls: list[dict[str, Any]] = []

    def answer(received: dict[str, Any]) -> object:
        calls.append(received)
        return done(result)(received)

    assert call(serve(answer)) == result
    given = {key: value for key, value in calls[0].items() if value is not None}
    assert given == {"schema": "qzd.control/1", "id": 1, **sent}


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("gate", 1), ("usage", 2), ("unknown_model", 2), ("busy", 3), ("stopping", 3), ("added_later", 3)],
)
def test_call_when_refused_raises_the_code_and_the_message(
    serve: Callable[..., ControlClient], code: str, exit_code: int
) -> None:
    client = serve(lambda call: {"id": call["id"], "ok": False, "error": {"code": code, "message": "no"}})
    with pytest.raises(RefusedError, match="no") as caught:
        client.swap("ssd", "4")
    assert (caught.value.fault.code, caught.value.exit_code) == (code, exit_code)


def test_call_when_late_replies_come_first_skips_them(serve: Callable[..., ControlClient]) -> None:
    late = {"id": 0, "ok": True, "result": None}
    client = serve(lambda _: late, lambda _: {**late, "id": "x"}, done(Pong("1", "e")))
    assert client.ping() == Pong("1", "e")
    assert client.ping() == Pong("1", "e")


@pytest.mark.parametrize("reply", [7, [], {}, {"id": 1}, {"ok": True}, {"id": 1, "ok": 5}, "text"])
def test_call_when_the_reply_is_not_one_names_the_socket(
    serve: Callable[..., ControlClient], reply: object
) -> None:
    with pytest.raises(EndpointError, match="not the control socket"):
        serve(lambda _: reply).ping()


def test_call_when_the_result_has_another_shape_names_the_versions(
    serve: Callable[..., ControlClient],
) -> None:
    with pytest.raises(EndpointError, match=r"answer to ping cannot be read.*version"):
        serve(done({"version": 5})).ping()


def test_call_when_nothing_answers_says_so(serve: Callable[..., ControlClient]) -> None:
    with pytest.raises(EndpointError, match=r"no answer in 0\.05 s"):
        serve(timeout=0.05).ping()
