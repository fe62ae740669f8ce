"""Sources whose frames others send: what came in at the ingest socket, for the stream that it names.

What may live here: who reads which stream, what waits for it, and decoding. The socket is in `ingest`.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from qzd_daemon.calls import Fault, FrameHeader, Taken
from qzd_daemon.captured import Captured, Notice
from qzd_daemon.images import read_image
from qzd_ext.errors import QzdError
from qzd_ext.geometry import Frame

__all__ = ["Arrived", "Inlets", "Sent"]

ROOM = 4  # messages of a stream that loses nothing; one more is answered `busy`
log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1  # how soon a stop is noticed while nothing comes
NOT_READ = Fault("busy", "the stream is not read at this moment. To fix: send the frame again later")


@dataclass(frozen=True, slots=True, eq=False)
class Arrived:
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
    answer: Callable[[Taken | Fault], None]
    arrived_ns: int


class Inlets:
    """Who reads which stream's frames, from the opening of the source to its end.

    Parameters
    ----------
    max_pixels : int
        Largest frame, width times height.
    """

    def __init__(self, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self._lock = threading.Lock()
        self._opened: collections.Counter[str] = collections.Counter()
        self._reading: dict[str, Sent] = {}

    def give(self, arrived: Arrived) -> Fault | None:
        """Hand a frame to the stream that it names; returns why that is not possible."""
        name = arrived.header.stream
        with self._lock:
            sent = self._reading.get(name)
            known = sorted(+self._opened)
        if sent is not None:
            return sent.put(arrived)
        if name in known:
            return NOT_READ
        wanted = ", ".join(known) or "a stream whose source is ingest://"
        return Fault("unknown_stream", f"no frames are taken for a stream {name!r}. Wanted: {wanted}")

    def opened(self, sent: Sent) -> None:
        """Note a source; while a stream changes there may be two of its name."""
        with self._lock:
            self._opened[sent.name] += 1

    def reading(self, sent: Sent) -> None:
        """From now on frames of its name are given to it."""
        with self._lock:
            self._reading[sent.name] = sent

    def closed(self, sent: Sent) -> None:
        """Forget a source."""
        with self._lock:
            self._opened[sent.name] -= 1
            if self._reading.get(sent.name) is sent:
                del self._reading[sent.name]


class Sent:
    """The frames of one stream, in the order in which they came.

    Parameters
    ----------
    name : str
        The stream's.
    when_behind : "drop" or "wait"
        drop: a new frame replaces one that is not decoded yet. wait: where there is no room it is refused as
        `busy`, for its sender to send again.
    timeout_s : float
        After so long without a frame the stream is said to be down.
    inlets : Inlets
    """

    live = True
    end = ""

    def __init__(
        self, name: str, when_behind: Literal["drop", "wait"], timeout_s: float, inlets: Inlets
    ) -> None:
        self.name = name
        self._drop = when_behind == "drop"
        self._timeout = timeout_s
        self._inlets = inlets
        self._come = threading.Condition()
        self._waiting: collections.deque[Arrived] = collections.deque()
        self._replaced = 0  # since the last frame that was delivered
        self._count = 0  # as `Stream` counts: replaced ones too
        self._closed = False
        inlets.opened(self)

    def put(self, arrived: Arrived) -> Fault | None:
        """Take a frame, or say why not. It is answered when its models have it."""
        with self._come:
            if self._closed:
                return NOT_READ
            if self._drop and self._waiting:
                self._waiting.popleft().answer(Taken(self._count))
                self._count += 1
                self._replaced += 1
            elif len(self._waiting) >= ROOM:
                text = f"{ROOM} frames of stream {self.name} wait. To fix: send this one again later"
                return Fault("busy", text)
            self._waiting.append(arrived)
            self._come.notify()
        return None

    def frames(self, stopping: threading.Event) -> Iterator[Captured | Notice]:
        """Frames and states until it is told to stop."""
        self._inlets.reading(self)
        yield Notice("connecting", "no frame was sent yet")
        running, heard = False, time.monotonic()
        while not stopping.is_set():
            taken = self._next()
            if taken is not None:
                if not running:
                    yield Notice("running")
                running = True
                yield from self._deliver(*taken, stopping)
                heard = time.monotonic()
            elif running and time.monotonic() - heard > self._timeout:
                running = False
                yield Notice("reconnecting", f"no frame was sent for {self._timeout:g} s")

    def _next(self) -> tuple[Arrived, int, int] | None:
        """A frame, its number, and how many were replaced before it."""
        with self._come:
            if not self._come.wait_for(lambda: self._waiting, LOOK_SECONDS):
                return None
            number, replaced = self._count, self._replaced
            self._count, self._replaced = number + 1, 0
            return self._waiting.popleft(), number, replaced

    def _deliver(
        self, arrived: Arrived, number: int, replaced: int, stopping: threading.Event
    ) -> Iterator[Captured]:
        """The next line after a `yield` is reached when the frame has a place in every mailbox."""
        frame, fault = self._decode(arrived)
        captured = Captured(
            frame,
            fault.message.splitlines()[0] if fault else None,
            arrived.header.pts_s,
            captured_ns=min(arrived.header.captured_ns or arrived.arrived_ns, arrived.arrived_ns),
            left_out=replaced,
        )
        try:
            yield captured
        finally:
            arrived.answer(NOT_READ if stopping.is_set() else fault or Taken(number))

    def _decode(self, arrived: Arrived) -> tuple[Frame | None, Fault | None]:
        header = arrived.header
        size = header.width, header.height
        try:
            return read_image(header.format, arrived.image, *size, self._inlets.max_pixels), None
        except QzdError as error:
            return None, Fault(error.code, str(error))
        except Exception as error:  # one frame must not end the service of the others
            log.exception("a frame of stream %s failed", self.name)
            return None, Fault("internal", f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Take no more; what waits is given back to its senders."""
        self._inlets.closed(self)
        with self._come:
            self._closed = True
            for arrived in self._waiting:
                arrived.answer(NOT_READ)
            self._waiting.clear()
