"""Clients on a plain XPUB socket: events, gaps, restarts, snapshots, with and without asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from qzd_client import AsyncClient, Client, Event, Gap, Restarted, StreamState, messages
from qzd_client.errors import EndpointError
from qzd_client.requests import Request, Snapshot, SnapshotEntry
from support.peers import PlainPublisher, Replier

TOPIC = messages.stream_topic("gate")
TOPICS = (messages.DETECTIONS, messages.STREAM, messages.MODEL, messages.HEARTBEAT)


def state(seq: int, epoch: str = "a") -> StreamState:
    return StreamState(stream="gate", state="running", epoch=epoch, seq=seq)


def beat(last: int, epoch: str = "a") -> messages.Heartbeat:
    return messages.Heartbeat(state="serving", interval_ms=500, topics={TOPIC: last}, epoch=epoch)


def snapshot(epoch: str, seq: int) -> Snapshot:
    return Snapshot(epoch, [SnapshotEntry(TOPIC, msgspec.Raw(messages.encode(state(seq, epoch))))])


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[PlainPublisher]:
    with PlainPublisher(f"ipc://{tmp_path}/detections") as publisher:
        yield publisher


def test_client_when_messages_are_lost_reports_the_gap_before_the_next(publisher: PlainPublisher) -> None:
    with Client(publisher.endpoint) as client:
        publisher.wait_for(TOPICS)
        for seq in (1, 2, 5):
            publisher.send(TOPIC, state(seq))
        events = [client.receive(10) for _ in range(4)]
    assert events == [state(1), state(2), Gap(TOPIC, 3, 4), state(5)]


def test_client_when_a_heartbeat_tells_of_more_reports_the_lost_tail(publisher: PlainPublisher) -> None:
    with Client(publisher.endpoint) as client:
        publisher.wait_for(TOPICS)
        publisher.send(TOPIC, state(1))
        publisher.send(messages.HEARTBEAT, beat(3))
        assert [client.receive(10), client.receive(10)] == [state(1), Gap(TOPIC, 2, 3)]
        assert client.heartbeat_s == 0.5


def test_client_when_the_epoch_changes_reports_the_restart(publisher: PlainPublisher) -> None:
    with Client(publisher.endpoint) as client:
        publisher.wait_for(TOPICS)
        publisher.send(TOPIC, state(7))
        publisher.send(TOPIC, state(1, "b"))
        assert [client.receive(10) for _ in range(3)] == [state(7), Restarted("a", "b"), state(1, "b")]


def test_client_when_iterated_yields_each_event(publisher: PlainPublisher) -> None:
    with Client(publisher.endpoint, streams=["gate"]) as client:
        publisher.wait_for([TOPIC])
        for seq in (1, 2):
            publisher.send(TOPIC, state(seq))
        assert [event for _, event in zip(range(2), client, strict=False)] == [state(1), state(2)]


def test_client_when_nothing_arrives_returns_none(publisher: PlainPublisher) -> None:
    with Client(publisher.endpoint) as client:
        assert client.receive(0) is None
        assert client.receive(0.05) is None
        assert client.heard_at == 0.0


def test_client_when_a_message_is_of_another_protocol_raises(publisher: PlainPublisher) -> None:
    with Client(publisher.endpoint) as client:
        publisher.wait_for(TOPICS)
        publisher.send_frames([TOPIC.encode(), b"{}"])
        with pytest.raises(msgspec.DecodeError):
            client.receive(10)


def test_client_when_given_a_control_endpoint_begins_with_the_snapshot(
    publisher: PlainPublisher, tmp_path: Path
) -> None:
    def answer(frames: list[bytes]) -> Iterator[list[bytes]]:
        call = msgspec.json.decode(frames[0], type=Request)
        assert call.op == "snapshot"
        yield [msgspec.json.encode({"id": call.id, "ok": True, "result": snapshot("a", 4)})]

    with (
        Replier(f"ipc://{tmp_path}/control", answer) as control,
        Client(publisher.endpoint, control=control.endpoint) as client,
    ):
        publisher.wait_for(TOPICS)
        publisher.send(TOPIC, state(4))
        publisher.send(messages.HEARTBEAT, beat(4))
        publisher.send(TOPIC, state(5))
        assert [client.receive(10), client.receive(10), client.receive(0.1)] == [state(4), state(5), None]


def test_client_when_the_control_endpoint_is_another_socket_says_so(
    publisher: PlainPublisher, tmp_path: Path
) -> None:
    with (
        Replier(f"ipc://{tmp_path}/control", lambda _: [[b"nonsense"]]) as control,
        Client(publisher.endpoint, control=control.endpoint) as client,
    ):
        publisher.wait_for(TOPICS)
        publisher.send(messages.HEARTBEAT, beat(0))
        with pytest.raises(EndpointError, match="not the control socket"):
            client.receive(10)


@pytest.mark.parametrize("endpoint", ["", "nonsense", "tcp://", "udp://x:1"])
def test_client_when_the_endpoint_is_not_valid_says_so(endpoint: str) -> None:
    with pytest.raises(EndpointError):
        Client(endpoint)


def test_async_client_when_messages_are_lost_reports_the_gap(publisher: PlainPublisher) -> None:
    async def receive() -> list[Event | None]:
        async with AsyncClient(publisher.endpoint) as client:
            nothing = [await client.receive(0), await client.receive(0.05)]
            await asyncio.to_thread(publisher.wait_for, TOPICS)
            for seq in (1, 3):
                publisher.send(TOPIC, state(seq))
            return [*nothing, *[await client.receive(10) for _ in range(3)]]

    assert asyncio.run(receive()) == [None, None, state(1), Gap(TOPIC, 2, 2), state(3)]


def test_async_client_when_receive_is_cancelled_loses_nothing(publisher: PlainPublisher) -> None:
    def send_all() -> None:
        for seq in range(1, 101):
            publisher.send(TOPIC, state(seq))

    async def receive() -> list[Event | None]:
        async with AsyncClient(publisher.endpoint) as client:
            await asyncio.to_thread(publisher.wait_for, TOPICS)
            events: list[Event | None] = []
            sending = threading.Thread(target=send_all)
            sending.start()
            while len(events) < 100:
                task = asyncio.ensure_future(client.receive(10))
                await asyncio.sleep(0)
                if not task.cancel() or task.done():
                    events.append(await task)
                    continue
                try:
                    events.append(await task)
                except asyncio.CancelledError:
                    events.append(await client.receive(10))
            sending.join()
            return events

    assert asyncio.run(receive()) == [state(n) for n in range(1, 101)]


def test_async_client_when_given_a_control_endpoint_begins_with_the_snapshot(
    publisher: PlainPublisher, tmp_path: Path
) -> None:
    async def receive(control: str) -> list[Event]:
        async with AsyncClient(publisher.endpoint, control=control) as client:
            await asyncio.to_thread(publisher.wait_for, TOPICS)
            publisher.send(messages.HEARTBEAT, beat(4))
            publisher.send(TOPIC, state(5))
            events: list[Event] = []
            async for event in client:
                events.append(event)
                if len(events) == 2:
                    return events
        return []

    def answer(_: list[bytes]) -> list[list[bytes]]:
        return [[msgspec.json.encode({"id": 1, "ok": True, "result": snapshot("a", 4)})]]

    with Replier(f"ipc://{tmp_path}/control", answer) as control:
        assert asyncio.run(receive(control.endpoint)) == [state(4), state(5)]
