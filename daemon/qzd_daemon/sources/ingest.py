"""Sources whose frames others send: what came in at the ingest socket, for the stream that it names."""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from qzd_client.requests import Accepted, ErrorBody, FrameHeader, WhenBehind
from qzd_daemon.sources.frames import SourceFrame, SourceState
from qzd_daemon.system.memory import NO_MEMORY, Memory
from qzd_ext.errors import QzdError
from qzd_ext.geometry import Frame
from qzd_ext.images import frame_bytes, read_image

__all__ = ["IngestRegistry", "IngestSource", "ReceivedFrame"]

ROOM = 4  # messages of a stream that loses nothing; one more is answered `busy`
log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1  # how soon a stop is noticed while nothing comes
NOT_READ = ErrorBody("busy", "the stream is not read at this moment. To fix: send the frame again later")


@dataclass(frozen=True, slots=True, eq=False)
class ReceivedFrame:
    """A frame as it was sent.

    Attributes
    ----------
    header : FrameHeader
    image : memoryview
        Not decoded yet.
    answer : callable
        To be called once, from any thread.
    arrived_ns : int
        Wall clock.
    """

    header: FrameHeader
    image: memoryview
    answer: Callable[[Accepted | ErrorBody], None]
    arrived_ns: int


class IngestRegistry:
    """Who reads which stream's frames, from the opening of the source to its end.

    Parameters
    ----------
    max_pixels : int
        Largest frame, width times height.
    memory : Memory, optional
        What decoded frames must find room in.
    """

    def __init__(self, max_pixels: int, memory: Memory | None = None) -> None:
        self.max_pixels = max_pixels
        self.memory = memory or Memory()
        self._lock = threading.Lock()
        self._opened: collections.Counter[str] = collections.Counter()
        self._reading: dict[str, IngestSource] = {}

    def give(self, received: ReceivedFrame) -> ErrorBody | None:
        """Hand a frame to the stream that it names; return why that is not possible."""
        name = received.header.stream
        with self._lock:
            sent = self._reading.get(name)
            known = sorted(+self._opened)
        if sent is not None:
            return sent.put(received)
        if name in known:
            return NOT_READ
        wanted = ", ".join(known) or "a stream whose source is ingest://"
        return ErrorBody("unknown_stream", f"no frames are taken for a stream {name!r}. Wanted: {wanted}")

    def opened(self, sent: IngestSource) -> None:
        """Note a source; while a stream changes there may be two of its name."""
        with self._lock:
            self._opened[sent.name] += 1

    def reading(self, sent: IngestSource) -> None:
        """Give frames of its name to this source from now on."""
        with self._lock:
            self._reading[sent.name] = sent

    def closed(self, sent: IngestSource) -> None:
        """Forget a source."""
        with self._lock:
            self._opened[sent.name] -= 1
            if self._reading.get(sent.name) is sent:
                del self._reading[sent.name]


class IngestSource:
    """The frames of one stream, in the order in which they came.

    Parameters
    ----------
    name : str
        The stream's.
    when_behind : "drop" or "wait"
        drop: a new frame replaces one that is not decoded yet. wait: if there is no room it is refused as
        `busy`, and its sender sends it again.
    timeout_s : float
        After this time without a frame the stream is reported as down.
    registry : IngestRegistry
    """

    live = True
    end = ""
    complete = True

    def __init__(
        self, name: str, when_behind: WhenBehind, timeout_s: float, registry: IngestRegistry
    ) -> None:
        self.name = name
        self._drop = when_behind == "drop"
        self._timeout = timeout_s
        self._registry = registry
        self._come = threading.Condition()
        self._waiting: collections.deque[ReceivedFrame] = collections.deque()
        self._replaced = 0  # since the last frame that was delivered
        self._count = 0  # as `Stream` counts: replaced ones too
        self._closed = False
        registry.opened(self)

    def put(self, received: ReceivedFrame) -> ErrorBody | None:
        """Take a frame, or say why not. It is answered when its models have it."""
        with self._come:
            if self._closed:
                return NOT_READ
            if self._drop and self._waiting:
                self._waiting.popleft().answer(Accepted(self._count))
                self._count += 1
                self._replaced += 1
            elif len(self._waiting) >= ROOM:
                text = f"{ROOM} frames of stream {self.name} wait. To fix: send this one again later"
                return ErrorBody("busy", text)
            self._waiting.append(received)
            self._come.notify()
        return None

    def frames(self, stopping: threading.Event) -> Iterator[SourceFrame | SourceState]:
        """Deliver frames and states until it is told to stop."""
        self._registry.reading(self)
        yield SourceState("connecting", "no frame was sent yet")
        running, heard = False, time.monotonic()
        while not stopping.is_set():
            taken = self._next()
            if taken is not None:
                if not running:
                    yield SourceState("running")
                running = True
                yield from self._deliver(*taken, stopping)
                heard = time.monotonic()
            elif running and time.monotonic() - heard > self._timeout:
                running = False
                yield SourceState("reconnecting", f"no frame was sent for {self._timeout:g} s")

    def _next(self) -> tuple[ReceivedFrame, int, int] | None:
        """Return a frame, its number, and how many were replaced before it; None if none has come."""
        with self._come:
            if not self._come.wait_for(lambda: self._waiting, LOOK_SECONDS):
                return None
            number, replaced = self._count, self._replaced
            self._count, self._replaced = number + 1, 0
            return self._waiting.popleft(), number, replaced

    def _deliver(
        self, received: ReceivedFrame, number: int, replaced: int, stopping: threading.Event
    ) -> Iterator[SourceFrame]:
        """Deliver a frame, then answer it: the `yield` returns when every queue has taken the frame."""
        frame, fault = self._decode(received)
        captured = SourceFrame(
            frame,
            fault.message.splitlines()[0] if fault else None,
            received.header.pts_s,
            captured_ns=min(received.header.captured_ns or received.arrived_ns, received.arrived_ns),
            left_out=replaced,
        )
        try:
            yield captured
        finally:
            received.answer(NOT_READ if stopping.is_set() else fault or Accepted(number))

    def _decode(self, received: ReceivedFrame) -> tuple[Frame | None, ErrorBody | None]:
        header = received.header
        size = header.width, header.height
        try:
            with self._registry.memory.reserve(frame_bytes(header.format, received.image)) as granted:
                if not granted:
                    return None, NO_MEMORY
                return read_image(header.format, received.image, *size, self._registry.max_pixels), None
        except QzdError as error:
            return None, ErrorBody(error.code, str(error))
        except Exception as error:  # one frame must not end the service of the others
            log.exception("a frame of stream %s failed", self.name)
            return None, ErrorBody("internal", f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Take no more frames, and refuse those that wait."""
        self._registry.closed(self)
        with self._come:
            self._closed = True
            for received in self._waiting:
                received.answer(NOT_READ)
            self._waiting.clear()
