"""The subscriber's side: iterate over typed events. Needs pyzmq and msgspec alone.

    with Client("tcp://127.0.0.1:5561") as client:
        for event in client:
            match event:
                case Detections(stream=stream, outcome="ok", detections=boxes): ...
                case Gap(topic=topic): print(event.lost, "messages of", topic, "were lost")

What may live here: the socket. How a loss is found is in `events`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType

import msgspec
import zmq

from qzd_daemon import wire
from qzd_daemon.events import Detections, Event, Gap, ModelState, Restarted, StreamState, Tracker
from qzd_ext.errors import EndpointError

__all__ = ["Client", "Detections", "Event", "Gap", "ModelState", "Restarted", "StreamState"]

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5561"
MAX_MESSAGE_BYTES = 16 * 2**20


class Client:
    """A subscription to a running daemon; reconnects by itself.

    Parameters
    ----------
    endpoint : str
        One of the daemon's `[publish] bind`.
    streams : sequence of str
        Names of the streams to receive; empty for all.
    receive_hwm : int
        Messages kept here for a reader that is slow; beyond, they are lost, and a Gap says so.

    Raises
    ------
    EndpointError
        The endpoint is not one. A daemon that is not there yet is no error: it may come.
    """

    def __init__(
        self, endpoint: str = DEFAULT_ENDPOINT, *, streams: Sequence[str] = (), receive_hwm: int = 1000
    ) -> None:
        self._topics = _topics(streams)
        self._tracker = Tracker(lambda topic: topic.startswith(self._topics))
        self._pending: deque[Event] = deque()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, receive_hwm)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self._socket.setsockopt(zmq.IPV6, 1)
        for topic in self._topics:
            self._socket.subscribe(topic)
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise EndpointError(
                f"{endpoint}: cannot be connected to: {error.strerror}",
                wanted="tcp://HOST:PORT or ipc:///PATH",
                fix="use an endpoint of the daemon's [publish] bind",
            ) from error
        self.heard_at = 0.0
        """`time.monotonic()` of the last message or heartbeat; 0 before the first."""

    def receive(self, timeout: float | None = None) -> Event | None:
        """The next event; None when `timeout` seconds passed without one.

        Raises
        ------
        msgspec.DecodeError
            What was received is not of this protocol.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while not self._pending:
            wait = None if end is None else max(0, round((end - time.monotonic()) * 1e3))
            if not self._socket.poll(wait):
                return None
            frames = self._socket.recv_multipart()
            if len(frames) != 2:
                raise msgspec.DecodeError(f"a message of {len(frames)} frames instead of [topic, JSON]")
            self._pending.extend(self._tracker.feed(frames[0].decode("utf-8", "replace"), frames[1]))
            self.heard_at = time.monotonic()
        return self._pending.popleft()

    def __iter__(self) -> Iterator[Event]:
        while True:
            event = self.receive()
            assert event is not None
            yield event

    def close(self) -> None:
        """Let go of the socket."""
        self._context.destroy(linger=0)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _topics(streams: Sequence[str]) -> tuple[str, ...]:
    """What to subscribe to. Models' states and heartbeats are always wanted: they are few, and they tell."""
    wanted = [f"{prefix}{stream}/" for stream in streams for prefix in (wire.DETECTIONS, wire.STREAM)]
    return (*(wanted or (wire.DETECTIONS, wire.STREAM)), wire.MODEL, wire.HEARTBEAT)
