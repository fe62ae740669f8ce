"""The inference socket: images come in, each gets what is in it, or why not.

The socket's thread reads headers and counts; a few others decode images; the model's scheduler does the rest.
At most `queue` requests are in hand, whatever callers do. What may live here: frames, deadlines, threads.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Thread

import msgspec
import zmq

from qzd_daemon import wire
from qzd_daemon.calls import Failure, Fault, ImageHeader
from qzd_daemon.config import InferenceConfig
from qzd_daemon.desk import Desk
from qzd_daemon.door import Door, Limits
from qzd_daemon.images import read_image
from qzd_ext.cpus import usable_cpus
from qzd_ext.errors import QzdError

__all__ = ["Inference"]

log = logging.getLogger(__name__)

MAX_ID_BYTES = 200
MAX_HEADER_BYTES = 4096
REPLIES_KEPT = 256  # for a caller that does not read
REQUESTS_KEPT = 2  # of one caller, before its connection is no longer read
BATCH = 64
LOOK_SECONDS = 0.5


@dataclass(slots=True, eq=False)
class _Pending:
    """A request in hand."""

    envelope: list[bytes]
    id: bytes
    header: ImageHeader
    image: memoryview
    deadline: float
    answered: bool = False
    cancel: Callable[[], object] = field(default=lambda: None)


class Inference:
    """Answers requests until it is closed.

    Parameters
    ----------
    config : InferenceConfig
    door : Door
    epoch : str
        The uuid of this run.
    desks : callable
        The models that serve now, by name.

    Attributes
    ----------
    endpoints : tuple of str
    refused : Counter
        Requests that were refused, by the fault's code.

    Raises
    ------
    EndpointError
        An endpoint cannot be bound.
    """

    def __init__(
        self, config: InferenceConfig, door: Door, epoch: str, desks: Callable[[], Mapping[str, Desk]]
    ) -> None:
        limits = Limits(config.max_image_bytes, config.max_connections, REPLIES_KEPT, REQUESTS_KEPT)
        self._entrance = door.open("inference", zmq.ROUTER, config.bind, limits)
        self.endpoints = self._entrance.endpoints
        self.refused: collections.Counter[str] = collections.Counter()
        self._config = config
        self._epoch = epoch
        self._desks = desks
        self._decoder = msgspec.json.Decoder(ImageHeader)
        self._encoder = msgspec.json.Encoder()
        self._pending: set[_Pending] = set()  # not answered yet; of the socket's thread alone
        self._decoding: set[_Pending] = set()
        self._done: collections.deque[tuple[_Pending, wire.Detections | Fault]] = collections.deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False
        self._pool = ThreadPoolExecutor(min(config.queue, usable_cpus()), "qzd-image")
        self._thread = Thread(target=self._run, name="qzd-inference")

    def start(self) -> None:
        """Begin to answer, if there is an endpoint."""
        if self.endpoints:
            self._thread.start()

    def close(self) -> None:
        """Take nothing more, and tell those who wait."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        if self._thread.ident is not None:
            self._thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._entrance.socket.close(linger=round(LOOK_SECONDS * 1e3))

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake, zmq.POLLIN)
        poller.register(self._entrance.socket, zmq.POLLIN)
        while not self._stopping:
            nearest = min((p.deadline for p in self._pending), default=float("inf"))
            wait = max(0.0, min(LOOK_SECONDS, nearest - time.monotonic()))
            poller.poll(int(wait * 1e3) + 1)
            self._entrance.refresh()
            self._send_done()
            self._expire()
            with contextlib.suppress(zmq.Again):
                for _ in range(BATCH):
                    self._take(self._entrance.socket.recv_multipart(zmq.NOBLOCK, copy=False))
        self._send_done()
        for pending in list(self._pending):
            self._answer(pending, Fault("stopping", "the daemon stops. To fix: ask the next one"))

    def _take(self, frames: list[zmq.Frame]) -> None:
        """`[caller, id, header, image]` from a DEALER; after the caller, a REQ has an empty frame."""
        split = 2 if len(frames) == 5 and not len(frames[1].buffer) else 1
        envelope, rest = [frame.bytes for frame in frames[:split]], frames[split:]
        request = rest[0].bytes if rest and len(rest[0].buffer) <= MAX_ID_BYTES else b""
        pending = _Pending(envelope, request, ImageHeader(format="bgr"), memoryview(b""), 0.0)
        try:
            pending.header = self._read_header(rest)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            text = f"{error}. Wanted: [id, header JSON, image] as docs/protocol.md has it"
            self._answer(pending, Fault("bad_request", text))
            return
        if len(self._pending | self._decoding) >= self._config.queue:
            text = f"{self._config.queue} requests are in hand. To fix: ask again later"
            self._answer(pending, Fault("busy", text))
            return
        longest = self._config.timeout_ms
        pending.image = rest[2].buffer
        pending.deadline = time.monotonic() + min(pending.header.timeout_ms or longest, longest) / 1e3
        self._pending.add(pending)
        self._decoding.add(pending)
        self._pool.submit(self._decode, pending)

    def _read_header(self, rest: list[zmq.Frame]) -> ImageHeader:
        if len(rest) != 3:
            raise msgspec.DecodeError(f"a message of {len(rest)} frames")
        for what, frame, most in (("an id", rest[0], MAX_ID_BYTES), ("a header", rest[1], MAX_HEADER_BYTES)):
            if len(frame.buffer) > most:
                raise msgspec.DecodeError(f"{what} of {len(frame.buffer)} bytes, more than {most}")
        return self._decoder.decode(rest[1].buffer)

    def _decode(self, pending: _Pending) -> None:
        """On a thread of the pool: from bytes to a frame, and on to the model."""
        try:
            if not pending.answered:
                self._submit(pending)
        except QzdError as error:
            self._finish(pending, Fault(error.code, str(error)))
        except Exception as error:  # one image must not end the service of the others
            log.exception("a request failed")
            self._finish(pending, Fault("internal", f"{type(error).__name__}: {error}"))
        finally:
            pending.image = memoryview(b"")
            self._decoding.discard(pending)

    def _submit(self, pending: _Pending) -> None:
        header, desks = pending.header, self._desks()
        name = header.model if header.model is not None or len(desks) != 1 else next(iter(desks))
        if name is None or name not in desks:
            found = "no model is named" if name is None else f"there is no model {name!r}"
            self._finish(pending, Fault("unknown_model", f"{found}. Wanted: one of {', '.join(desks)}"))
            return
        frame = read_image(header.format, pending.image, header.width, header.height, self._config.max_pixels)
        pending.cancel = desks[name].submit(frame, lambda message: self._finish(pending, message))
        if pending.answered:  # its deadline passed meanwhile
            pending.cancel()

    def _finish(self, pending: _Pending, answer: wire.Detections | Fault) -> None:
        """From any thread."""
        self._done.append((pending, answer))
        with contextlib.suppress(OSError):  # closed meanwhile
            os.eventfd_write(self._wake, 1)

    def _send_done(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        while self._done:
            pending, answer = self._done.popleft()
            if not pending.answered:
                self._answer(pending, answer)

    def _expire(self) -> None:
        now = time.monotonic()
        for pending in [p for p in self._pending if p.deadline <= now]:
            pending.cancel()
            self._answer(pending, Fault("timeout", "the deadline has passed. To fix: ask later, or less"))

    def _answer(self, pending: _Pending, answer: wire.Detections | Fault) -> None:
        """A caller that is gone, or does not read, gets nothing; ZeroMQ drops it."""
        pending.answered = True
        self._pending.discard(pending)
        if isinstance(answer, Fault):
            self.refused[answer.code] += 1
            payload = self._encoder.encode(Failure(answer))
        else:
            payload = wire.encode(
                msgspec.structs.replace(answer, epoch=self._epoch, published_ns=time.time_ns())
            )
        with contextlib.suppress(zmq.Again):
            self._entrance.socket.send_multipart([*pending.envelope, pending.id, payload], zmq.NOBLOCK)
