"""Subscribe to a running daemon: `Client` iterates over typed events, `AsyncClient` does so under asyncio."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import zmq
import zmq.asyncio

from qzd_client.closing import Closing
from qzd_client.connect import DETECTIONS as DEFAULT_ENDPOINT
from qzd_client.connect import Keys, connect, milliseconds
from qzd_client.events import Detections, Event, Gap, ModelState, Restarted, Stale, StreamState
from qzd_client.subscription import Subscription

if TYPE_CHECKING:
    from typing import Self  # in `typing` from Python 3.11 on

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


class _Sockets:
    """The sockets of both clients; `Client` documents the parameters."""

    _context_type: ClassVar[type[zmq.Context[Any]]]
    _poller_type: ClassVar[type[zmq.Poller]]
    _subscriber: Any  # a Socket, or one whose methods are awaited
    _control: Any

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
        self._context, self._poller = self._context_type(), self._poller_type()
        try:
            self._subscription = Subscription(streams, max_age_s, snapshot=control is not None)
            self._subscriber = self._context.socket(zmq.SUB)
            self._subscriber.setsockopt(zmq.RCVHWM, receive_hwm)
            self._subscriber.setsockopt(zmq.SNDHWM, 0)  # libzmq silently drops subscriptions above its limit
            for topic in self._subscription.topics:
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
        return self._subscription.interval_ms / 1e3

    def close(self) -> None:
        """Close the sockets."""
        self._context.destroy(linger=0)


class Client(_Sockets, Closing):
    """Subscribe to a running daemon. Reconnects by itself.

    Parameters
    ----------
    endpoint : str
        One of the daemon's `[publish] bind`.
    streams : sequence of str
        Names of the streams to receive; empty for all.
    control : str, optional
        One of the daemon's `[control] bind`. The events then begin with a snapshot: the last message of
        each topic.
    keys : Keys, optional
        CURVE keys for TCP endpoints.
    max_age_s : float, optional
        Detections older than this become `Stale`.
    receive_hwm : int
        Messages to keep while the application does not read. More are lost, and a `Gap` says so.

    Attributes
    ----------
    heard_at : float
        `time.monotonic()` of the last message or heartbeat; 0 before the first.

    Raises
    ------
    EndpointError
        An endpoint is not valid. A daemon that does not run yet is not an error.
    DataError
        A key cannot be used.
    UsageError
        `streams` is one string instead of several.

    Examples
    --------
    ::

        with Client("tcp://127.0.0.1:5561") as client:
            for event in client:
                match event:
                    case Detections(stream=stream, outcome="ok", detections=boxes):
                        print(stream, boxes)
                    case Gap(topic=topic):
                        print(event.lost, "messages of", topic, "were lost")
    """

    _context_type = zmq.Context
    _poller_type = zmq.Poller

    def receive(self, timeout: float | None = None) -> Event | None:
        """Return the next event, or None if `timeout` seconds pass without one.

        Raises
        ------
        msgspec.DecodeError
            A message is not of this protocol.
        EndpointError
            The control endpoint gives no snapshot.
        """
        end = None if timeout is None else time.monotonic() + timeout
        events = self._subscription.events
        while not events:
            try:
                self._feed(self._subscriber.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:  # polling before every message would cost more than reading it
                if not self._wait(end):
                    return None
        return events.popleft()

    def _feed(self, frames: list[bytes]) -> None:
        self.heard_at = time.monotonic()
        call = self._subscription.feed(frames)
        if call is not None:
            self._control.send(call)

    def _wait(self, end: float | None) -> bool:
        """Wait until a socket is readable; return False at `end`."""
        ready = dict(self._poller.poll(None if end is None else milliseconds(end)))
        if ready and self._subscriber not in ready:
            self._subscription.join(self._control.recv())
        return bool(ready)

    def __iter__(self) -> Iterator[Event]:
        while True:
            event = self.receive()
            assert event is not None
            yield event


class AsyncClient(_Sockets):
    """Subscribe to a running daemon under asyncio. Parameters, attributes and errors as `Client`.

    On Windows, use the selector event loop: pyzmq does not support the default one.

    Examples
    --------
    ::

        async with AsyncClient("tcp://127.0.0.1:5561") as client:
            async for event in client:
                print(event)
    """

    _context_type = zmq.asyncio.Context
    _poller_type = zmq.asyncio.Poller
    _poller: zmq.asyncio.Poller

    async def receive(self, timeout: float | None = None) -> Event | None:
        """Return the next event, or None if `timeout` seconds pass without one. Raises as `Client.receive`.

        Cancelling it loses nothing.
        """
        end = None if timeout is None else time.monotonic() + timeout
        events = self._subscription.events
        while not events:
            if not await self._read(end):
                return None
        return events.popleft()

    async def _read(self, end: float | None) -> bool:
        """Wait, which may be cancelled, then read what has arrived without waiting; return False at `end`."""
        ready = dict(await self._poller.poll(None if end is None else milliseconds(end)))
        if self._subscriber in ready:
            self.heard_at = time.monotonic()
            call = self._subscription.feed(await self._subscriber.recv_multipart())
            if call is not None:
                await self._control.send(call)
        elif ready:
            self._subscription.join(await self._control.recv())
        return bool(ready)

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            event = await self.receive()
            assert event is not None
            yield event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
