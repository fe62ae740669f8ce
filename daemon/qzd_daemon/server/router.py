"""A socket that takes images: `[id, header, image]` comes in, `[id, JSON]` goes out, once for each."""

from __future__ import annotations

import collections
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Thread
from typing import Generic, TypeVar

import msgspec
import zmq

from qzd_client.requests import ErrorBody, ImageError
from qzd_daemon.config.schema import InferenceConfig, IngestConfig
from qzd_daemon.transport.listener import Limits, Listener

__all__ = ["STOPPING", "PendingRequest", "RequestServer"]

log = logging.getLogger(__name__)

MAX_ID_BYTES = 200
MAX_HEADER_BYTES = 4096
REPLIES_KEPT = 256  # for a caller that does not read
REQUESTS_KEPT = 2  # of one caller, before its connection is no longer read
BATCH = 64
LINGER_MS = 500
STOPPING = ErrorBody("stopping", "the daemon stops. To fix: ask the next one")

Header = TypeVar("Header", bound=msgspec.Struct)


@dataclass(slots=True, eq=False)
class PendingRequest(Generic[Header]):
    """A message in hand.

    Attributes
    ----------
    header : Header
    image : memoryview
        Of the message's own memory.
    deadline : float
        `time.monotonic()` at which it is answered `timeout`.
    cancel : callable
        Called then.
    answered : bool
    """

    header: Header
    image: memoryview
    _envelope: list[bytes]
    deadline: float = float("inf")
    cancel: Callable[[], object] = field(default=lambda: None)
    answered: bool = False


class RequestServer(Generic[Header]):
    """Takes messages and sends answers until it is closed, on a thread of its own.

    Parameters
    ----------
    name : str
        The socket's.
    config : InferenceConfig or IngestConfig
        Where it is bound, and its limits.
    listener : Listener
    header : type
        What a header must be.
    take : callable
        Takes a message that is well formed, on the socket's thread; returns why it is refused at once, or
        None where `answer` will be called.

    Attributes
    ----------
    endpoints : tuple of str
    pending : set of PendingRequest
        Not answered yet; for the socket's thread alone.
    refused : Counter
        Messages that were refused, by the fault's code.

    Raises
    ------
    EndpointError
        An endpoint cannot be bound.
    """

    def __init__(
        self,
        name: str,
        config: InferenceConfig | IngestConfig,
        listener: Listener,
        header: type[Header],
        take: Callable[[PendingRequest[Header]], ErrorBody | None],
    ) -> None:
        limits = Limits(config.max_image_bytes, config.max_connections, REPLIES_KEPT, REQUESTS_KEPT)
        self._bound_socket = listener.open(name, zmq.ROUTER, config.bind, limits)
        self.endpoints = self._bound_socket.endpoints
        self.pending: set[PendingRequest[Header]] = set()
        self.refused: collections.Counter[str] = collections.Counter()
        self._take = take
        self._decoder = msgspec.json.Decoder(header)
        self._encoder = msgspec.json.Encoder()
        self._done: collections.deque[tuple[PendingRequest[Header], msgspec.Struct]] = collections.deque()
        self._stopping = False
        self._thread = Thread(target=self._run, name=f"qzd-{name}")

    def start(self) -> None:
        """Begin to answer, if there is an endpoint."""
        if self.endpoints:
            self._thread.start()

    def close(self) -> None:
        """Take nothing more, and tell those who wait."""
        self._stopping = True
        self._bound_socket.wake()
        answered = False
        if self._thread.ident is not None:
            self._thread.join()
            answered = self._answer_the_last()
        self._bound_socket.close(LINGER_MS, answered=answered)

    def answer(self, asked: PendingRequest[Header], answer: msgspec.Struct) -> None:
        """Answer a message, from any thread; a Fault says why it could not be done."""
        self._done.append((asked, answer))
        self._bound_socket.wake()

    def _run(self) -> None:
        while not self._stopping:
            self._bound_socket.wait(self._until_next_deadline_ms())
            self._send_done()
            self._expire()
            with contextlib.suppress(zmq.Again):
                for _ in range(BATCH):
                    self._receive(self._bound_socket.socket.recv_multipart(zmq.NOBLOCK, copy=False))

    def _answer_the_last(self) -> bool:
        """Whoever waits, or has just asked, is told that the daemon stops; whether there was one."""
        answered = bool(self.pending)
        self._send_done()
        for asked in list(self.pending):
            self._finish(asked, STOPPING)
        for frames in self._bound_socket.unread(copy=False):
            self._receive(frames)
            answered = True
        return answered

    def _receive(self, frames: list[zmq.Frame]) -> None:
        """`[caller, id, header, image]` from a DEALER; after the caller, a REQ has an empty frame."""
        split = 2 if len(frames) == 5 and not len(frames[1].buffer) else 1
        envelope, rest = [frame.bytes for frame in frames[:split]], frames[split:]
        envelope.append(rest[0].bytes if rest and len(rest[0].buffer) <= MAX_ID_BYTES else b"")
        try:
            asked = PendingRequest(self._read_header(rest), rest[2].buffer, envelope)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            text = f"{error}. Wanted: [id, header JSON, image] as docs/protocol.md has it"
            self._send(envelope, ErrorBody("bad_request", text))
            return
        fault = STOPPING if self._stopping else self._take(asked)
        if fault is None:
            self.pending.add(asked)
        else:
            self._send(envelope, fault)

    def _read_header(self, rest: list[zmq.Frame]) -> Header:
        if len(rest) != 3:
            raise msgspec.DecodeError(f"a message of {len(rest)} frames")
        for what, frame, most in (("an id", rest[0], MAX_ID_BYTES), ("a header", rest[1], MAX_HEADER_BYTES)):
            if len(frame.buffer) > most:
                raise msgspec.DecodeError(f"{what} of {len(frame.buffer)} bytes, more than {most}")
        return self._decoder.decode(rest[1].buffer)

    def _send_done(self) -> None:
        while self._done:
            self._finish(*self._done.popleft())

    def _until_next_deadline_ms(self) -> int | None:
        nearest = min((asked.deadline for asked in self.pending), default=float("inf"))
        return None if nearest == float("inf") else max(0, int((nearest - time.monotonic()) * 1e3)) + 1

    def _expire(self) -> None:
        now = time.monotonic()
        for asked in [a for a in self.pending if a.deadline <= now]:
            asked.cancel()
            self._finish(asked, ErrorBody("timeout", "the deadline has passed. To fix: ask later, or less"))

    def _finish(self, asked: PendingRequest[Header], answer: msgspec.Struct) -> None:
        if not asked.answered:
            asked.answered = True
            self.pending.discard(asked)
            self._send(asked._envelope, answer)

    def _send(self, envelope: list[bytes], answer: msgspec.Struct) -> None:
        """A caller that is gone, or does not read, gets nothing; ZeroMQ drops it."""
        if isinstance(answer, ErrorBody):
            self.refused[answer.code] += 1
            text = "%s is answered on the %s socket: %s"
            log.warning(text, answer.code, self._bound_socket.name, answer.message)
            answer = ImageError(answer)
        with contextlib.suppress(zmq.Again):
            self._bound_socket.socket.send_multipart([*envelope, self._encoder.encode(answer)], zmq.NOBLOCK)
