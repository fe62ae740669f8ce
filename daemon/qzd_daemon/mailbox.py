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


class Inbox(Generic[T]):
    """The mailboxes of one model: the one that was served longest ago is next.

    So busy streams take turns, and a quiet one, whose turn was long ago, never waits behind them.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.work = threading.Condition(self.lock)
        self.ready: list[Mailbox[T]] = []
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

    def take(self) -> Mail[T] | None:
        """The next item of the stream whose turn it is; None where none waits."""
        with self.lock:
            if not self.ready:
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
        self._items: collections.deque[tuple[T, int]] = collections.deque()  # with `dropped_before`
        self._room = threading.Condition(inbox.lock)
        self._dropped = self._taken = self._served = 0
        self._closed = False

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._items)

    def put(self, item: T) -> bool:
        """Hand an item over; False after `close`: it is not taken then."""
        with self._inbox.lock:
            if self._wait:
                self._room.wait_for(lambda: self._closed or len(self._items) < self._most)
            if self._closed:
                return False
            if not self._items:
                self._inbox.ready.append(self)
                self._inbox.work.notify()
            elif not self._wait:
                self._dropped += self._items.pop()[1] + 1
            self._items.append((item, self._dropped))
            self._dropped = 0
            return True

    def skip(self, count: int = 1) -> None:
        """Count items that their stream left out on purpose."""
        with self._inbox.lock:
            self._dropped += count

    def discard(self, item: T) -> bool:
        """Take an item back; False when it is not here any more."""
        with self._inbox.lock:
            kept = [(other, dropped) for other, dropped in self._items if other is not item]
            if len(kept) == len(self._items):
                return False
            self._items = collections.deque(kept)
            if not kept:
                self._inbox.ready.remove(self)
            self._room.notify()
            return True

    def empty(self) -> list[Mail[T]]:
        """Take all that waits, whoever's turn it is."""
        with self._inbox.lock:
            if self._items:
                self._inbox.ready.remove(self)
            return [self._pop() for _ in range(len(self._items))]

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
        mail = Mail(*self._items.popleft(), self._taken)
        self._taken += 1
        self._room.notify()
        return mail
