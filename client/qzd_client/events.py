"""The events of a subscription, and the tracker that finds lost messages and restarts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qzd_client import messages
from qzd_client.messages import Detections, Heartbeat, ModelState, StreamState

__all__ = ["Detections", "Event", "Gap", "ModelState", "Restarted", "Stale", "StreamState", "Tracker"]


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages of a topic were lost on the way. Each lost message is in exactly one Gap.

    Attributes
    ----------
    topic : str
    first, last : int
        The seqs that are missing, both included.

    Examples
    --------
    >>> Gap("qzd/1/stream/gate/", 8, 9).lost
    2
    """

    topic: str
    first: int
    last: int

    @property
    def lost(self) -> int:
        """Number of missing messages."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Restarted:
    """The daemon has restarted: every topic counts from 1 again.

    Attributes
    ----------
    before, epoch : str
        The uuids of the previous run and of this one.
    """

    before: str
    epoch: str


@dataclass(frozen=True, slots=True)
class Stale:
    """A detections message that arrived too late to act on.

    Attributes
    ----------
    message : Detections
    age_s : float
        Seconds since it was published, by the clock of this machine.
    """

    message: Detections
    age_s: float


Event = Detections | Gap | Restarted | Stale | StreamState | ModelState


class Tracker:
    """Turn messages into events and find what is missing between them.

    The messages of a topic count from 1 without a hole, so a jump is a loss. A heartbeat names the last seq
    of every topic, so that a loss at the end is found too. What was sent before this subscriber connected is
    not a loss: until the first heartbeat of the first epoch, the first message of a topic sets its start.

    Parameters
    ----------
    wants : callable
        Whether a topic is subscribed to; heartbeats list them all.
    max_age_s : float, optional
        Detections that are older become Stale.
    now_ns : callable
        The wall clock.

    Attributes
    ----------
    interval_ms : int
        Between heartbeats, as the last one says; 0 before the first.

    Examples
    --------
    >>> tracker = Tracker()
    >>> def running(seq):
    ...     return messages.encode(StreamState(stream="gate", state="running", epoch="e", seq=seq))
    >>> [type(event).__name__ for event in tracker.feed("qzd/1/stream/gate/", running(7))]
    ['StreamState']
    >>> tracker.feed("qzd/1/stream/gate/", running(10))[0]
    Gap(topic='qzd/1/stream/gate/', first=8, last=9)
    """

    def __init__(
        self,
        wants: Callable[[str], bool] = lambda _: True,
        max_age_s: float | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._wants = wants
        self._max_age_s = max_age_s
        self._now_ns = now_ns
        self.interval_ms = 0
        self._epoch = ""
        self._seen: dict[str, int] = {}
        self._complete = False  # whether a topic that is not in _seen has had no message yet

    def join(self, epoch: str, published: Sequence[tuple[str, bytes]]) -> list[Event]:
        """Start from a snapshot, the last message of each topic; pass what follows it to `feed`."""
        self._epoch = epoch
        self._complete = True
        events: list[Event] = []
        for topic, payload in published:
            message = messages.decode_any(payload)
            if self._wants(topic) and not isinstance(message, Heartbeat):
                self._seen[topic] = message.seq
                if not isinstance(message, messages.UnknownMessage):
                    events.append(self._judge(message))
        return events

    def feed(self, topic: str, payload: bytes) -> list[Event]:
        """Return the events of one message: first what was lost before it, then the message.

        A message that the snapshot contains gives no event; nor does one of an unknown kind.

        Raises
        ------
        msgspec.DecodeError
            The message is not of this protocol.
        """
        message = messages.decode_any(payload)
        events = self._check_epoch(message.epoch) if message.epoch != self._epoch else []
        if isinstance(message, Heartbeat):
            for other, seq in message.topics.items():
                if self._wants(other):
                    events += self._advance(other, seq, received=False)
            self._complete = True
            self.interval_ms = message.interval_ms
            return events
        before = self._seen.get(topic, 0)
        if message.seq <= before:
            return events
        if message.seq == before + 1:  # as nearly always
            self._seen[topic] = message.seq
        else:
            events += self._advance(topic, message.seq, received=True)
        return events if isinstance(message, messages.UnknownMessage) else [*events, self._judge(message)]

    def _judge(self, message: Detections | StreamState | ModelState) -> Event:
        if self._max_age_s is None or not isinstance(message, Detections):
            return message
        age_s = (self._now_ns() - message.published_ns) / 1e9
        return Stale(message, age_s) if age_s > self._max_age_s else message

    def _check_epoch(self, epoch: str) -> list[Event]:
        before, self._epoch = self._epoch, epoch
        self._seen.clear()
        self._complete = bool(before)  # a subscriber of the previous epoch was connected when this one began
        return [Restarted(before, epoch)] if before else []

    def _advance(self, topic: str, seq: int, *, received: bool) -> list[Event]:
        """Note that `seq` was published, and whether it was `received`; return what is missing."""
        start = 0 if self._complete else seq - 1 if received else seq
        before = self._seen.get(topic, start)
        self._seen[topic] = max(seq, before)
        last_lost = seq - 1 if received else seq
        return [Gap(topic, before + 1, last_lost)] if last_lost > before else []
