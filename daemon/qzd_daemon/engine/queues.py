"""What waits between the sources and a model: one queue per stream, and whose turn it is."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from qzd_client.requests import WhenBehind

__all__ = ["FairQueue", "QueuedItem", "StreamQueue"]

T = TypeVar("T")

WAITING_FRAMES = 4  # of a source that is pushed back; it goes on when half of them are left


@dataclass(frozen=True, slots=True, eq=False)
class QueuedItem(Generic[T]):
    """An item that was taken out of a queue.

    Attributes
    ----------
    item : T
    dropped_before : int
        Number of items that were dropped, or left out on purpose, since the one before it.
    """

    item: T
    dropped_before: int


class FairQueue(Generic[T]):
    """The queues of one model: the one that was served longest ago is next.

    So busy streams take turns, and a quiet one, whose turn was long ago, never waits behind them.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.work = threading.Condition(self.lock)
        self.ready: list[StreamQueue[T]] = []
        self._turn = 0
        self._closed = self._woken = False

    def close(self) -> None:
        """End every wait from now on; the items that wait can still be taken."""
        with self.lock:
            self._closed = True
            self.work.notify_all()

    def wake(self) -> None:
        """End one `wait`, though there may be nothing to take."""
        with self.lock:
            self._woken = True
            self.work.notify_all()

    def wait(self) -> bool:
        """Wait until there is something to take, or `wake` is called; False if this is closed and empty."""
        with self.lock:
            self.work.wait_for(lambda: self.ready or self._closed or self._woken)
            self._woken = False
            return bool(self.ready) or not self._closed

    def take(self) -> QueuedItem[T] | None:
        """Return the next item of the stream whose turn it is; None if none waits."""
        with self.lock:
            if not self.ready:
                return None
            queue = min(self.ready, key=lambda waiting: waiting._served)
            self._turn += 1
            queue._served = self._turn
            queued = queue._pop()
            if not queue._items:
                self.ready.remove(queue)
            return queued


class StreamQueue(Generic[T]):
    """The items that one stream has ready for one model.

    Parameters
    ----------
    fair_queue : FairQueue
        The model's.
    when_full : "drop" or "wait"
        drop: a new item replaces the one that waits. wait: `put` blocks until there is room.
    room : int
        Largest number of items that wait if `put` blocks.
    """

    def __init__(self, fair_queue: FairQueue[T], when_full: WhenBehind, room: int = WAITING_FRAMES) -> None:
        self._fair_queue = fair_queue
        self._wait = when_full == "wait"
        self._most = room
        self._items: collections.deque[tuple[T, int]] = collections.deque()  # with `dropped_before`
        self._room = threading.Condition(fair_queue.lock)
        self._finished = threading.Condition(fair_queue.lock)
        self._dropped = self._unfinished = self._served = 0
        self._closed = False

    def __len__(self) -> int:
        """Return the number of items that wait."""
        return len(self._items)

    def put(self, item: T) -> bool:
        """Add an item; False after `close`: it is not added then."""
        with self._fair_queue.lock:
            if self._wait:
                self._room.wait_for(lambda: self._closed or len(self._items) < self._most)
            if self._closed:
                return False
            if not self._items:
                self._fair_queue.ready.append(self)
                self._fair_queue.work.notify()
            elif not self._wait:
                self._dropped += self._items.pop()[1] + 1
            self._items.append((item, self._dropped))
            self._dropped = 0
            return True

    def skip(self, count: int = 1) -> None:
        """Count items that their stream leaves out on purpose."""
        with self._fair_queue.lock:
            self._dropped += count

    def discard(self, item: T) -> bool:
        """Remove an item; False if it does not wait here."""
        with self._fair_queue.lock:
            kept = [(other, dropped) for other, dropped in self._items if other is not item]
            if len(kept) == len(self._items):
                return False
            self._items = collections.deque(kept)
            if not kept:
                self._fair_queue.ready.remove(self)
            self._room.notify()
            self._finished.notify_all()
            return True

    def empty(self) -> list[QueuedItem[T]]:
        """Take every item that waits, out of turn."""
        with self._fair_queue.lock:
            if self._items:
                self._fair_queue.ready.remove(self)
            return [self._pop() for _ in range(len(self._items))]

    def close(self) -> None:
        """Accept no more items; those that wait can still be taken. A `put` that blocks returns."""
        with self._fair_queue.lock:
            self._closed = True
            self._room.notify_all()
            self._finished.notify_all()

    def finish(self) -> None:
        """Note that an item that was taken is done."""
        with self._fair_queue.lock:
            self._unfinished -= 1
            self._finished.notify_all()

    def wait_finished(self, timeout: float | None = None, unless: Callable[[], bool] = lambda: False) -> bool:
        """Wait until no item waits and all that were taken are done; return whether this is so.

        Parameters
        ----------
        timeout : float or None
            Seconds.
        unless : callable
            Ends the wait too; asked again at `close`.
        """
        with self._fair_queue.lock:
            self._finished.wait_for(lambda: unless() or not (self._items or self._unfinished), timeout)
            return not (self._items or self._unfinished)

    def _pop(self) -> QueuedItem[T]:
        queued = QueuedItem(*self._items.popleft())
        self._unfinished += 1
        if len(self._items) <= self._most // 2:  # wake a source for several frames, not for each
            self._room.notify()
        return queued
