"""The loop that the control, inference and ingest sockets share: a ROUTER socket, served by one thread."""

from __future__ import annotations

import abc
import collections
import contextlib
from collections.abc import Sequence
from typing import Generic, TypeVar

import zmq

from qzd_daemon.system.threads import NamedThread
from qzd_daemon.transport.listener import Limits, Listener

__all__ = ["Envelope", "RouterLoop"]

BATCH = 64  # messages that are read before replies are sent again
LINGER_MS = 500

Envelope = list[bytes]
Request = TypeVar("Request")
Answer = TypeVar("Answer")


class RouterLoop(abc.ABC, Generic[Request, Answer]):
    """Receive messages and send answers until it is closed.

    Only the loop's thread touches the socket and `pending`. Other threads hand in answers with `answer`,
    which wakes the loop. When the loop closes, it first sends what is done, then refuses what is pending, and
    last refuses messages that wait unread in the socket. In each case the caller learns that qzd stops.

    Parameters
    ----------
    name : str
        Of the socket.
    bind : tuple of str
        Endpoints; without one, nothing is served.
    limits : Limits
    listener : Listener

    Attributes
    ----------
    message_frames : int
        Frames of a message, without the caller's identity.
    endpoints : tuple of str
    pending : set
        Requests without an answer.

    Raises
    ------
    EndpointError
        An endpoint cannot be bound.
    """

    message_frames: int

    def __init__(self, name: str, bind: tuple[str, ...], limits: Limits, listener: Listener) -> None:
        self.name = name
        self._bound_socket = listener.open(name, zmq.ROUTER, bind, limits)
        self.endpoints = self._bound_socket.endpoints
        self.pending: set[Request] = set()
        self._done: collections.deque[tuple[Request, Answer]] = collections.deque()
        self._stopping = False
        self._thread = NamedThread(f"qzd-{name}", self._run)

    def start(self) -> None:
        """Start the thread, if there is an endpoint."""
        if self.endpoints:
            self._thread.start()

    def close(self) -> None:
        """Take no more messages, and refuse all that are pending."""
        self._stopping = True
        self._bound_socket.wake()
        answered = False
        if self._thread.ident is not None:
            self._thread.join()
            answered = self._answer_the_last()
        self._bound_socket.close(LINGER_MS, answered=answered)

    def answer(self, request: Request, answer: Answer) -> None:
        """Answer a pending request, from any thread."""
        self._done.append((request, answer))
        self._bound_socket.wake()

    @abc.abstractmethod
    def _receive(self, envelope: Envelope, frames: Sequence[zmq.Frame]) -> None:
        """Handle a message: send an answer, or add a request to `pending`."""

    @abc.abstractmethod
    def _finish(self, request: Request, answer: Answer) -> None:
        """Send the answer of a pending request."""

    @abc.abstractmethod
    def _refuse(self, request: Request) -> None:
        """Tell the caller of a pending request that the daemon stops."""

    def _timeout_ms(self) -> int | None:
        """Milliseconds until `_expire` is due; None for never."""
        return None

    def _expire(self) -> None:
        """Answer the requests whose deadline has passed."""

    def _run(self) -> None:
        while not self._stopping:
            self._bound_socket.wait(self._timeout_ms())
            self._send_done()
            self._expire()
            with contextlib.suppress(zmq.Again):
                for _ in range(BATCH):
                    self._split(self._bound_socket.socket.recv_multipart(zmq.NOBLOCK, copy=False))

    def _answer_the_last(self) -> bool:
        """Answer everything that is pending or unread; return whether there was anything."""
        answered = bool(self.pending)
        self._send_done()
        for request in list(self.pending):
            self._refuse(request)
        for frames in self._bound_socket.unread(copy=False):
            self._split(frames)
            answered = True
        return answered

    def _split(self, frames: list[zmq.Frame]) -> None:
        """Split the envelope from the message: a REQ, unlike a DEALER, puts an empty frame before it."""
        is_from_req = len(frames) >= self.message_frames + 2 and not len(frames[1].buffer)
        split = 2 if is_from_req else 1
        self._receive([frame.bytes for frame in frames[:split]], frames[split:])

    def _send_done(self) -> None:
        while self._done:
            self._finish(*self._done.popleft())

    def _send(self, envelope: Envelope, payload: bytes) -> None:
        """Send an answer. ZeroMQ drops it if the caller is gone or does not read."""
        with contextlib.suppress(zmq.Again):
            self._bound_socket.socket.send_multipart([*envelope, payload], zmq.NOBLOCK)
