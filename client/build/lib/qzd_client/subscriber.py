"""The subscriber's side: iterate over typed events. Needs pyzmq and msgspec alone.

with Client("tcp://127.0.0.1:5561") as client:
for event in client:
match event:
case Detections(stream=stream, outcome="ok", detections=boxes): ...
case Gap(topic=topic): print(event.lost, "messages of", topic, "were lost")

async with AsyncClient("tcp://127.0.0.1:5561") as client:
async for event in client: ...
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Any, TypedDict, Unpack

import zmq
import zmq.asyncio

from qzd_client.connect import DETECTIONS as DEFAULT_ENDPOINT
from qzd_client.connect import Keys, connect, milliseconds
from qzd_client.events import Detections, Event, Gap, ModelState, Restarted, Stale, StreamState
from qzd_client.subscription import Session

__all__ = [
    "AsyncClient",
    "Client",
    "Detections",
    "Event",
    "Gap",
    "Keys",
    "ModelState",
    "Restarted",
    "Stale",
    "StreamState",
]


class Options(TypedDict, total=False):
    """What `Client` takes beside its endpoint."""

    streams: Sequence[str]
    control: str | None
    keys: Keys | None
    max_age_s: float | None
    receive_hwm: int


class _Subscription:
    """What both clients are made of; the documentation is that of `Client`."""

    _context: zmq.Context[Any]
    _poller: zmq.Poller

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        *,
        streams: Sequence[str] = (),
        control: str | None = None,
        keys: Keys | None = None,
        max_age_s: float | None = None,
        receive_hwm: int = 1000,
    ) -> None:
        self.heard_at = 0.0
        try:
            self._session = Session(streams, max_age_s, snapshot=control is not None)
            self._subscriber = self._context.socket(zmq.SUB)
            self._subscriber.setsockopt(zmq.RCVHWM, receive_hwm)
            self._subscriber.setsockopt(zmq.SNDHWM, 0)  # more subscriptions would be dropped without a word
            for topic in self._session.topics:
                self._subscriber.subscribe(topic)
            connect(self._subscriber, endpoint, keys)
            self._poller.register(self._subscriber, zmq.POLLIN)
            if control is not None:
                self._control = connect(self._context.socket(zmq.DEALER), control, keys)
                self._poller.register(self._control, zmq.POLLIN)
        except BaseException:
            self.close()
            raise

    @property
    def heartbeat_s(self) -> float:
        """Seconds between heartbeats, as the last one says; 0 before the first."""
        return self._session.interval_ms / 1e3

    def close(self) -> None:
        """Let go of the sockets."""
        self._context.destroy(linger=0)


class Client(_Subscription):
    """A subscription to a running daemon; reconnects by itself.

    Parameters
    ----------
    endpoint : str
        One of the daemon's `[publish] bind`.
    streams : sequence of str
        Names of the streams to receive; empty for all.
    control : str, optional
        One of its `[control] bind`: begin with a snapshot, the last message of each topic.
    keys : Keys, optional
        For TCP endpoints with CURVE.
    max_age_s : float, optional
        Detections that are older become Stale.
    receive_hwm : int
        Messages kept here for a reader that is slow; beyond, they are lost, and a Gap says so.

    Attributes
    ----------
    heard_at : float
        `time.monotonic()` of the last message or heartbeat; 0 before the first.

    Raises
    ------
    EndpointError
        An endpoint is not one. A daemon that is not there yet is no error: it may come.
    DataError
        A key cannot be used.
    UsageError
        `streams` is one name instead of several.
    """

    def __init__(self, endpoint: str = DEFAULT_ENDPOINT, **options: Unpack[Options]) -> None:
        self._context, self._poller = zmq.Context(), zmq.Poller()
        super().__init__(endpoint, **options)

    def receive(self, timeout: float | None = None) -> Event | None:
        """The next event; None when `timeout` seconds passed without one.

        Raises
        ------
        msgspec.DecodeError
            What was received is not of this protocol.
        EndpointError
            The control endpoint gave no snapshot.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while not self._session.events:
            try:
                self._feed(self._subscriber.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:  # to wait for each message alone would cost more than to read it
                if not self._wait(end):
                    return None
        return self._session.events.popleft()

    def _feed(self, frames: list[bytes]) -> None:
        self.heard_at = time.monotonic()
        call = self._session.feed(frames)
        if call is not None:
            self._control.send(call)

    def _wait(self, end: float | None) -> bool:
        """Until there is something to read; False at `end`."""
        ready = dict(self._poller.poll(None if end is None else milliseconds(end)))
        if ready and self._subscriber not in ready:
            self._session.join(self._control.recv())
        return bool(ready)

    def __iter__(self) -> Iterator[Event]:
        while True:
            event = self.receive()
            assert event is not None
            yield event

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Subscription):
    """A subscription to a running daemon, for asyncio; everything else is as in `Client`."""

    def __init__(self, endpoint: str = DEFAULT_ENDPOINT, **options: Unpack[Options]) -> None:
        self._context = zmq.asyncio.Context()
        self._poller = self._ready = zmq.asyncio.Poller()
        super().__init__(endpoint, **options)

    async def receive(self, timeout: float | None = None) -> Event | None:
        """The next event; None when `timeout` seconds passed without one. Raises as `Client.receive`."""
        if timeout is not None and timeout <= 0:  # asyncio would be out of time before the first look
            while not self._session.events and await self._ready.poll(0):
                await self._read()
            return self._session.events.popleft() if self._session.events else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not self._session.events:
                    await self._read()
        return self._session.events.popleft() if self._session.events else None

    async def _read(self) -> None:
        """Wait, which can be cancelled; what is there is then read without waiting."""
        ready = dict(await self._ready.poll())
        if self._subscriber not in ready:
            self._session.join(await self._control.recv())
            return
        self.heard_at = time.monotonic()
        call = self._session.feed(await self._subscriber.recv_multipart())
        if call is not None:
            await self._control.send(call)

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            event = await self.receive()
            assert event is not None
            yield event

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
