"""A socket that takes images: each message `[id, header, image]` gets exactly one answer `[id, JSON]`.

The inference and ingest sockets use it. It reads headers, keeps deadlines and matches answers to requests.
"""

from __future__ import annotations

import collections
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec
import zmq

from qzd_client.requests import ErrorBody, ImageError
from qzd_daemon.config.schema import InferenceConfig, IngestConfig
from qzd_daemon.server.router import Envelope, RouterLoop
from qzd_daemon.transport.listener import Limits, Listener

__all__ = ["STOPPING", "PendingRequest", "RequestServer"]

log = logging.getLogger(__name__)

MAX_ID_BYTES = 200
MAX_HEADER_BYTES = 4096
REPLIES_KEPT = 256  # for a caller that does not read
REQUESTS_KEPT = 2  # of one caller, before its connection is no longer read
STOPPING = ErrorBody("stopping", "the daemon stops. To fix: ask the next one")

Header = TypeVar("Header", bound=msgspec.Struct)


@dataclass(slots=True, eq=False)
class PendingRequest(Generic[Header]):
    """A message that waits for its answer.

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
    _envelope: Envelope
    deadline: float = math.inf
    cancel: Callable[[], object] = field(default=lambda: None)
    answered: bool = False


class RequestServer(RouterLoop[PendingRequest[Header], msgspec.Struct], Generic[Header]):
    """Take messages and send answers until it is closed.

    An answer that is an `ErrorBody` says why the request could not be done.

    Parameters
    ----------
    name : str
        Of the socket.
    config : InferenceConfig or IngestConfig
        Where it is bound, and its limits.
    listener : Listener
    header : type
        What a header must be.
    take : callable
        Takes a well-formed message on the socket's thread. Returns why it is refused at once, or None if
        `answer` will be called.

    Attributes
    ----------
    refused : Counter
        Messages that were refused, by the error's code.

    Raises
    ------
    EndpointError
        An endpoint cannot be bound.
    """

    message_frames = 3

    def __init__(
        self,
        name: str,
        config: InferenceConfig | IngestConfig,
        listener: Listener,
        header: type[Header],
        take: Callable[[PendingRequest[Header]], ErrorBody | None],
    ) -> None:
        limits = Limits(config.max_image_bytes, config.max_connections, REPLIES_KEPT, REQUESTS_KEPT)
        super().__init__(name, config.bind, limits, listener)
        self.refused: collections.Counter[str] = collections.Counter()
        self._take = take
        self._decoder = msgspec.json.Decoder(header)
        self._encoder = msgspec.json.Encoder()

    def _receive(self, envelope: Envelope, frames: Sequence[zmq.Frame]) -> None:
        envelope.append(frames[0].bytes if frames and len(frames[0].buffer) <= MAX_ID_BYTES else b"")
        try:
            request = PendingRequest(self._read_header(frames), frames[2].buffer, envelope)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            text = f"{error}. Wanted: [id, header JSON, image] as docs/protocol.md has it"
            self._send_answer(envelope, ErrorBody("bad_request", text))
            return
        refusal = STOPPING if self._stopping else self._take(request)
        if refusal is None:
            self.pending.add(request)
        else:
            self._send_answer(envelope, refusal)

    def _read_header(self, frames: Sequence[zmq.Frame]) -> Header:
        if len(frames) != self.message_frames:
            raise msgspec.DecodeError(f"a message of {len(frames)} frames")
        for what, frame, most in (
            ("an id", frames[0], MAX_ID_BYTES),
            ("a header", frames[1], MAX_HEADER_BYTES),
        ):
            if len(frame.buffer) > most:
                raise msgspec.DecodeError(f"{what} of {len(frame.buffer)} bytes, more than {most}")
        return self._decoder.decode(frames[1].buffer)

    def _timeout_ms(self) -> int | None:
        nearest = min((request.deadline for request in self.pending), default=math.inf)
        return None if nearest == math.inf else max(0, int((nearest - time.monotonic()) * 1e3)) + 1

    def _expire(self) -> None:
        now = time.monotonic()
        for request in [r for r in self.pending if r.deadline <= now]:
            request.cancel()
            self._finish(request, ErrorBody("timeout", "the deadline has passed. To fix: ask later, or less"))

    def _finish(self, request: PendingRequest[Header], answer: msgspec.Struct) -> None:
        if not request.answered:
            request.answered = True
            self.pending.discard(request)
            self._send_answer(request._envelope, answer)

    def _refuse(self, request: PendingRequest[Header]) -> None:
        self._finish(request, STOPPING)

    def _send_answer(self, envelope: Envelope, answer: msgspec.Struct) -> None:
        if isinstance(answer, ErrorBody):
            self.refused[answer.code] += 1
            log.warning("%s is answered on the %s socket: %s", answer.code, self.name, answer.message)
            answer = ImageError(answer)
        self._send(envelope, self._encoder.encode(answer))
