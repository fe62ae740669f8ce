"""A subscription from its first message on: joining with a snapshot, then event by event.


Joining: a heartbeat proves that every subscription is in force, because heartbeats are subscribed to last.
Only then is the snapshot asked for, so that it holds whatever was sent before; what comes meanwhile is kept,
and what the snapshot holds too is left out by its seq. So there is no hole and no double between the two.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Sequence

import msgspec

from qzd_client import messages
from qzd_client.errors import EndpointError, UsageError
from qzd_client.events import Event, Tracker
from qzd_client.requests import ErrorBody, Request, Snapshot

__all__ = ["Session"]

ATTEMPTS = 5
PAUSE_SECONDS = 1.0  # between them at least: heartbeats may come faster than an answer

_snapshot_reply = msgspec.json.Decoder(Snapshot)


class _Reply(msgspec.Struct):
    """Of a call for a snapshot; only one of the two is there."""

    id: int | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: ErrorBody | None = None


class Session:
    """What is received, turned into events.

    Parameters
    ----------
    streams : sequence of str
        Names of the streams to receive; empty for all.
    max_age_s : float or None
        Detections that are older become Stale.
    snapshot : bool
        Begin with the last message of each topic.

    Attributes
    ----------
    topics : tuple of str
        What to subscribe to, in this order.
    events : deque of Event
        What is ready to be read.
    """

    def __init__(self, streams: Sequence[str], max_age_s: float | None, *, snapshot: bool) -> None:
        self.topics = _topics(streams)
        self.events: collections.deque[Event] = collections.deque()
        self._tracker = Tracker(lambda topic: topic.startswith(self.topics), max_age_s)
        self._joining = snapshot
        self._epoch = ""
        self._kept: list[tuple[str, bytes]] = []
        self._asked = 0
        self._asked_before = 0  # of another epoch
        self._next_ask = 0.0

    @property
    def interval_ms(self) -> int:
        """Between heartbeats, as the last one says; 0 before the first."""
        return self._tracker.interval_ms

    def feed(self, frames: Sequence[bytes]) -> bytes | None:
        """Take a message from the subscription.

        Returns
        -------
        bytes or None
            A call that must be sent to the control socket; its reply goes to `join`.

        Raises
        ------
        msgspec.DecodeError
            It is not of this protocol.
        EndpointError
            The control socket has not answered.
        """
        if len(frames) != 2:
            raise msgspec.DecodeError(f"a message of {len(frames)} frames instead of [topic, JSON]")
        topic, payload = frames[0].decode("utf-8", "replace"), frames[1]
        if not self._joining:
            self.events.extend(self._tracker.feed(topic, payload))
            return None
        self._kept.append((topic, payload))
        return self._ask(payload) if topic == messages.HEARTBEAT else None

    def _ask(self, heartbeat: bytes) -> bytes | None:
        epoch = messages.decode(heartbeat).epoch
        if epoch != self._epoch:  # nothing of an epoch before is of use any more
            self._epoch, self._asked_before, self._next_ask = epoch, self._asked, 0.0
            self._kept = [kept for kept in self._kept if messages.decode_any(kept[1]).epoch == epoch]
        if time.monotonic() < self._next_ask:
            return None
        if self._asked - self._asked_before == ATTEMPTS:
            raise EndpointError(
                f"the control socket has not answered {ATTEMPTS} calls for a snapshot",
                wanted="one of the daemon's [control] bind",
                fix="correct the control endpoint and its keys, or do without a snapshot",
            )
        self._asked += 1
        self._next_ask = time.monotonic() + PAUSE_SECONDS
        return msgspec.json.encode(Request(id=self._asked, op="snapshot"))

    def join(self, reply: bytes) -> None:
        """Take the reply to a call for a snapshot.

        Raises
        ------
        EndpointError
            It was refused, or is no reply to it.
        """
        try:
            answer = msgspec.json.decode(reply, type=_Reply)
            if not self._joining or (answer.id is not None and answer.id <= self._asked_before):
                return  # it is late, or older than what is subscribed to
            if answer.error is not None and answer.error.code == "stopping":
                return  # its next run is asked
            if answer.error is not None:
                raise EndpointError(f"the daemon gives no snapshot: {answer.error.message}")
            snapshot = _snapshot_reply.decode(answer.result)
        except msgspec.DecodeError as error:
            raise EndpointError(
                "what answers the call for a snapshot is no control socket",
                wanted="one of the daemon's [control] bind",
                fix="correct the control endpoint",
            ) from error
        if snapshot.epoch != self._epoch:  # the daemon has started again
            return
        self._joining = False
        last = [(entry.topic, bytes(entry.message)) for entry in snapshot.messages]
        self.events.extend(self._tracker.join(snapshot.epoch, last))
        for topic, payload in self._kept:
            self.events.extend(self._tracker.feed(topic, payload))
        self._kept.clear()


def _topics(streams: Sequence[str]) -> tuple[str, ...]:
    """What to subscribe to. Models' states and heartbeats are always wanted: they are few, and they tell."""
    if isinstance(streams, str):  # each of its letters would be a stream, of which nothing is ever heard
        raise UsageError(f"streams={streams!r}", wanted="several names", fix=f"write streams=[{streams!r}]")
    wanted = [f"{prefix}{stream}/" for stream in streams for prefix in (messages.DETECTIONS, messages.STREAM)]
    return (*(wanted or (messages.DETECTIONS, messages.STREAM)), messages.MODEL, messages.HEARTBEAT)
