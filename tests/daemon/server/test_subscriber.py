"""Clients on a real publisher and a real control socket: joining, and asyncio."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qzd_client import subscription
from qzd_client.errors import EndpointError
from qzd_client.subscriber import AsyncClient, Client, Event, StreamState
from support.publisher import SnapshotPublisher


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SnapshotPublisher]:
    service = SnapshotPublisher(tmp_path)
    yield service
    service.close()


@pytest.fixture
def chatter(service: SnapshotPublisher) -> Iterator[None]:
    """Messages all the time, so that joining happens in their midst."""
    stopping = threading.Event()

    def talk() -> None:
        for number in itertools.count():
            service.publish(number)
            if stopping.wait(0.0005):
                return

    thread = threading.Thread(target=talk)
    thread.start()
    yield
    stopping.set()
    thread.join()


def seqs(events: list[Event | None]) -> list[int]:
    assert all(isinstance(event, StreamState) for event in events), events
    return [event.seq for event in events if isinstance(event, StreamState)]


@pytest.mark.usefixtures("chatter")
def test_client_when_it_joins_in_the_midst_has_neither_hole_nor_double(service: SnapshotPublisher) -> None:
    for _ in range(10):
        with Client(service.endpoint, control=service.control_endpoint) as client:
            numbers = seqs([client.receive(5) for _ in range(50)])
        assert numbers == list(range(numbers[0], numbers[0] + 50))


def test_client_when_it_joins_late_knows_the_last_of_each_topic(service: SnapshotPublisher) -> None:
    for stream in ("gate", "yard"):
        for number in range(3):
            service.publish(number, stream)
    with Client(service.endpoint, control=service.control_endpoint) as client:
        events = [client.receive(5), client.receive(5)]
        assert client.receive(0.2) is None
    assert {(e.stream, e.seq) for e in events if isinstance(e, StreamState)} == {("gate", 3), ("yard", 3)}


def test_client_when_it_wants_one_stream_joins_with_that_alone(service: SnapshotPublisher) -> None:
    service.publish(1, "gate")
    service.publish(1, "gate2")
    with Client(service.endpoint, control=service.control_endpoint, streams=["gate"]) as client:
        event = client.receive(math.inf)
        assert isinstance(event, StreamState)
        assert (event.stream, client.receive(0.2)) == ("gate", None)


def test_client_when_the_control_endpoint_never_answers_says_so(
    service: SnapshotPublisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "PAUSE_SECONDS", 0.0)
    client = Client(service.endpoint, control=f"ipc://{tmp_path}/nobody")
    with client, pytest.raises(EndpointError, match="has not answered"):
        client.receive(10)


def test_async_client_when_it_joins_has_neither_hole_nor_double(
    service: SnapshotPublisher, chatter: None
) -> None:
    async def receive() -> list[Event | None]:
        async with AsyncClient(service.endpoint, control=service.control_endpoint) as client:
            return [await client.receive(5) for _ in range(100)]

    numbers = seqs(asyncio.run(receive()))
    assert numbers == list(range(numbers[0], numbers[0] + 100))


def test_async_client_when_nothing_comes_gives_none_and_loses_nothing(service: SnapshotPublisher) -> None:
    async def receive() -> list[Event | None]:
        async with AsyncClient(service.endpoint) as client:
            nothing = await client.receive(0.3)
            service.publish(1)
            async for event in client:
                return [nothing, event]
        return []

    nothing, event = asyncio.run(receive())
    assert nothing is None
    assert isinstance(event, StreamState)


def test_async_client_when_there_is_no_time_takes_what_is_there(service: SnapshotPublisher) -> None:
    async def receive() -> list[Event | None]:
        async with AsyncClient(service.endpoint) as client:
            await client.receive(0.3)
            service.publish(1)
            service.publish(2)
            await asyncio.sleep(0.3)
            return [await client.receive(0) for _ in range(3)]

    *heard, nothing = asyncio.run(receive())
    assert all(isinstance(event, StreamState) for event in heard)
    assert nothing is None


def test_client_when_it_wants_more_streams_than_libzmq_keeps_subscriptions_hears(
    service: SnapshotPublisher,
) -> None:
    service.publish(1, "s1999")
    names = [f"s{number}" for number in range(2000)]
    with Client(service.endpoint, streams=names, control=service.control_endpoint) as client:
        assert isinstance(client.receive(20), StreamState)
