"""Keep the newest picture of each stream that somebody looks at, and encode it once for all viewers.

The engine hands over every frame that it has answered. A frame of a stream that nobody looks at costs one
look into a dict; of one that is watched, at most `MAX_FPS` per second are kept. Viewers wait, convert, scale
down and encode on their own threads.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator

import cv2
import numpy as np

from qzd_client import messages
from qzd_daemon.monitoring.draw import draw_found, jpeg
from qzd_ext.geometry import Frame, Picture

__all__ = ["MAX_FPS", "Shown", "View"]

MAX_FPS = 5.0
MAX_SIDE = 960  # pixels of the longer side


class Shown:
    """A frame with what was found in it.

    Parameters
    ----------
    frame : (h, w, 3) uint8 BGR, or Picture
        Read by the first viewer who asks; nobody may write to it.
    found : collection of Detections
        Of each model that looks at the stream, the newest.
    """

    def __init__(self, frame: Frame | Picture, found: Collection[messages.Detections]) -> None:
        self._frame = frame
        self._found = tuple(found)
        self._lock = threading.Lock()
        self._scaled: tuple[Frame, float] | None = None
        self._encoded: dict[bool, bytes] = {}

    def jpeg(self, *, boxes: bool = True) -> bytes:
        """Return it as JPEG, with or without what was found; encoded by the first who asks."""
        with self._lock:
            if boxes not in self._encoded:
                self._scaled = self._scaled or _scaled(self._frame)
                picture, scale = self._scaled
                if boxes:
                    picture = picture.copy()
                    draw_found(picture, self._found, scale)
                self._encoded[boxes] = jpeg(picture)
            return self._encoded[boxes]


def _scaled(frame: Frame | Picture) -> tuple[Frame, float]:
    """Return a frame with MAX_SIDE pixels at most, and its pixels per pixel of the source."""
    pixels = frame if isinstance(frame, np.ndarray) else frame.to_bgr()
    height, width = pixels.shape[:2]
    scale = min(1.0, MAX_SIDE / max(height, width))
    small = np.empty((max(1, round(height * scale)), max(1, round(width * scale)), 3), np.uint8)
    cv2.resize(pixels, small.shape[1::-1], dst=small, interpolation=cv2.INTER_AREA)
    return small, scale


class View:
    """The pictures that viewers look at.

    Parameters
    ----------
    clock : callable
        Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._watched: collections.Counter[str] = collections.Counter()
        self._pictures: dict[str, Shown] = {}
        self._taken_at: dict[str, float] = {}
        self._found: dict[str, dict[str, messages.Detections]] = {}

    def take(self, message: messages.Detections, frame: Frame | Picture | None) -> None:
        """Keep an answered frame if somebody looks at its stream; never waits for a viewer."""
        if message.stream not in self._watched or frame is None:
            return
        if not self._changed.acquire(blocking=False):
            return  # a viewer is just reading; the next frame is as good
        try:
            self._take(message, frame)
        finally:
            self._changed.release()

    def _take(self, message: messages.Detections, frame: Frame | Picture) -> None:
        stream, now = message.stream, self._clock()
        if stream not in self._watched:
            return
        found = self._found.setdefault(stream, {})
        found[message.model.name] = message
        if now - self._taken_at.get(stream, float("-inf")) >= 1 / MAX_FPS:
            self._taken_at[stream] = now
            self._pictures[stream] = Shown(frame, list(found.values()))
            self._changed.notify_all()

    @contextlib.contextmanager
    def watch(self, streams: Collection[str]) -> Iterator[Watch]:
        """Look at streams until the end of the block."""
        with self._changed:
            self._watched.update(streams)
        try:
            yield Watch(self, streams)
        finally:
            with self._changed:
                self._watched.subtract(streams)
                self._watched += collections.Counter()  # those that nobody watches are left out
                for stream in self._pictures.keys() - self._watched.keys():
                    del self._pictures[stream]
                for stream in self._found.keys() - self._watched.keys():
                    del self._found[stream]

    def wait(self, streams: Collection[str], seen: dict[str, Shown], timeout: float) -> dict[str, Shown]:
        """Return the pictures that differ from those `seen`, as soon as there is one."""
        with self._changed:
            self._changed.wait_for(lambda: self._new(streams, seen), timeout)
            return self._new(streams, seen)

    def _new(self, streams: Collection[str], seen: dict[str, Shown]) -> dict[str, Shown]:
        found = {name: self._pictures[name] for name in streams if name in self._pictures}
        return {name: picture for name, picture in found.items() if seen.get(name) is not picture}


class Watch:
    """One viewer of some streams; `View.watch` makes it."""

    def __init__(self, view: View, streams: Collection[str]) -> None:
        self._view, self._streams = view, tuple(streams)
        self._seen: dict[str, Shown] = {}

    def next(self, timeout: float) -> dict[str, Shown]:
        """Return what is new, by stream; empty after `timeout` seconds without anything."""
        new = self._view.wait(self._streams, self._seen, timeout)
        self._seen.update(new)
        return new
