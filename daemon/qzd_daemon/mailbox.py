"""What waits between the sources and a model: a mailbox a stream, and whose turn it is.

What may live here: waiting, dropping, fairness. Frames are opaque; numbers and messages are made by others.
"""

from __future__ import annotations

import collections
import threading
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

__all__ = ["Inbox", "Mail", "Mailbox"]

T = TypeVar("T")

WAITING_FRAMES = 2  # of a source that is pushed back: one is taken while the next is decoded


@dataclass(frozen=True, slots=True, eq=False)
class Mail(Generic[T]):
    """An item that was taken, with the number of those that were dropped before it."""

    item: T
    dropped_before: int


class Inbox(Generic[T]):
    """The mailboxes of one model: the one that was served longest ago is next.

    So busy streams take turns, and a quiet one, whose turn was long ago, never waits behind them.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.work = threading.Condition(self.lock)
        self.ready: list[Mailbox[T]] = []
        self._turn = 0

    def take(self, timeout: float) -> Mail[T] | None:
        """The next item of the stream whose turn it is; None when `timeout` seconds passed without one."""
        with self.lock:
            if not self.work.wait_for(lambda: self.ready, timeout):
                return None
            mailbox = min(self.ready, key=lambda waiting: waiting._served)
            self._turn += 1
            mailbox._served = self._turn
            mail = mailbox._pop()
            if not mailbox._items:
                self.ready.remove(mailbox)
            return mail


class Mailbox(Generic[T]):
    """What one stream has ready for one model.

    Parameters
    ----------
    inbox : Inbox
        The model's.
    when_full : "drop" or "wait"
        drop: a new item replaces the one that waits. wait: `put` blocks until there is room.
    room : int
        Items that may wait where `put` blocks.
    """

    def __init__(
        self, inbox: Inbox[T], when_full: Literal["drop", "wait"], room: int = WAITING_FRAMES
    ) -> None:
        self._inbox = inbox
        self._wait = when_full == "wait"
        self._most = room
        self._items: collections.deque[T] = collections.deque()
        self._room = threading.Condition(inbox.lock)
        self._dropped = self._taken = self._served = 0
        self._closed = False

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._items)

    def put(self, item: T) -> None:
        """Hand an item over; after `close` it is thrown away."""
        with self._inbox.lock:
            if self._wait:
                self._room.wait_for(lambda: self._closed or len(self._items) < self._most)
            if self._closed:
                return
            if not self._items:
                self._inbox.ready.append(self)
                self._inbox.work.notify()
            elif not self._wait:
                self._items.clear()
                self._dropped += 1
            self._items.append(item)

    def skip(self, count: int = 1) -> None:
        """Count items that their stream left out on purpose."""
        with self._inbox.lock:
            self._dropped += count

    def discard(self, item: T) -> bool:
        """Take an item back; False when it is not here any more."""
        with self._inbox.lock:
            if item not in self._items:
                return False
            self._items.remove(item)
            if not self._items:
                self._inbox.ready.remove(self)
            self._room.notify()
            return True

    def close(self) -> None:
        """Take nothing more; what waits can still be taken. A `put` that blocks returns."""
        with self._inbox.lock:
            self._closed = True
            self._room.notify_all()

    def is_done(self, finished: int) -> bool:
        """Whether nothing waits, and so many were taken as were `finished`."""
        with self._inbox.lock:
            return not self._items and self._taken == finished

    def _pop(self) -> Mail[T]:
        mail = Mail(self._items.popleft(), self._dropped)
        self._dropped = 0
        self._taken += 1
        self._room.notify()
        return mail
