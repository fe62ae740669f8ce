"""What waits between the sources and a model: a mailbox a stream, and whose turn it is."""

from __future__ import annotations

import collections
import threading
from dataclasses import dataclass
from typing import Generic, TypeVar

from qzd_client.requests import WhenBehind

__all__ = ["FairQueue", "QueuedItem", "StreamQueue"]

T = TypeVar("T")

WAITING_FRAMES = 2  # of a source that is pushed back: one is taken while the next is decoded


@dataclass(frozen=True, slots=True, eq=False)
class QueuedItem(Generic[T]):
    """An item of a mailbox.

    Attributes
    ----------
    item : T
    dropped_before : int
        How many were dropped, or left out on purpose, since the one before it.
    order : int
        Counts what was taken out of the mailbox, from 0.
    """

    item: T
    dropped_before: int
    order: int


class FairQueue(Generic[T]):
    """The mailboxes of one model: the one that was served longest ago is next.

    So busy streams take turns, and a quiet one, whose turn was long ago, never waits behind them.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.work = threading.Condition(self.lock)
        self.ready: list[StreamQueue[T]] = []
        self._turn = 0
        self._closed = False

    def close(self) -> None:
        """Wait for nothing any more; what waits can still be taken."""
        with self.lock:
            self._closed = True
            self.work.notify_all()

    def wait(self, timeout: float) -> None:
        """Wait until there is something to take, but no longer than so many seconds."""
        with self.lock:
            self.work.wait_for(lambda: self.ready or self._closed, timeout)

    def take(self) -> QueuedItem[T] | None:
        """The next item of the stream whose turn it is; None where none waits."""
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
    """What one stream has ready for one model.

    Parameters
    ----------
    fair_queue : FairQueue
        The model's.
    when_full : "drop" or "wait"
        drop: a new item replaces the one that waits. wait: `put` blocks until there is room.
    room : int
        Items that may wait where `put` blocks.
    """

    def __init__(
        self, fair_queue: FairQueue[T], when_full: WhenBehind, room: int = WAITING_FRAMES
    ) -> None:
        self._fair_queue = fair_queue
        self._wait = when_full == "wait"
        self._most = room
        self._items: collections.deque[tuple[T, int]] = collections.deque()  # with `dropped_before`
        self._room = threading.Condition(fair_queue.lock)
        self._dropped = self._taken = self._served = 0
        self._closed = False

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._items)

    def put(self, item: T) -> bool:
        """Hand an item over; False after `close`: it is not taken then."""
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
        """Count items that their stream left out on purpose."""
        with self._fair_queue.lock:
            self._dropped += count

    def discard(self, item: T) -> bool:
        """Take an item back; False when it is not here any more."""
        with self._fair_queue.lock:
            kept = [(other, dropped) for other, dropped in self._items if other is not item]
            if len(kept) == len(self._items):
                return False
            self._items = collections.deque(kept)
            if not kept:
                self._fair_queue.ready.remove(self)
            self._room.notify()
            return True

    def empty(self) -> list[QueuedItem[T]]:
        """Take all that waits, whoever's turn it is."""
        with self._fair_queue.lock:
            if self._items:
                self._fair_queue.ready.remove(self)
            return [self._pop() for _ in range(len(self._items))]

    def close(self) -> None:
        """Take nothing more; what waits can still be taken. A `put` that blocks returns."""
        with self._fair_queue.lock:
            self._closed = True
            self._room.notify_all()

    def is_done(self, finished: int) -> bool:
        """Whether nothing waits, and so many were taken as were `finished`."""
        with self._fair_queue.lock:
            return not self._items and self._taken == finished

    def _pop(self) -> QueuedItem[T]:
        queued = QueuedItem(*self._items.popleft(), self._taken)
        self._taken += 1
        self._room.notify()
        return queued
