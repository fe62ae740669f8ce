"""Turn the messages of a subscription into events, starting with a snapshot if one is wanted. No I/O.

Joining: heartbeats are subscribed to last, so the first heartbeat proves that every subscription is in force.
Only then is the snapshot requested, so that it contains everything that was sent before. Messages that arrive
meanwhile are kept; those that the snapshot contains are dropped by their seq. So nothing is missing between
snapshot and stream, and nothing comes twice.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Sequence

import msgspec

from qzd_client import messages
from qzd_client.errors import EndpointError, UsageError
from qzd_client.events import Event, Tracker
from qzd_client.requests import ControlReply, Request, Snapshot

__all__ = ["Subscription"]

ATTEMPTS = 5
PAUSE_SECONDS = 1.0  # at least, between attempts: heartbeats may come faster than an answer

_snapshot_reply = msgspec.json.Decoder(Snapshot)


class Subscription:
    """Turn what is received into events.

    Parameters
    ----------
    streams : sequence of str
        Names of the streams to receive; empty for all.
    max_age_s : float or None
        Detections older than this become `Stale`.
    snapshot : bool
        Start with the last message of each topic.

    Attributes
    ----------
    topics : tuple of str
        Prefixes to subscribe to, in this order.
    events : deque of Event
        Events that can be read.
    """

    def __init__(self, streams: Sequence[str], max_age_s: float | None, *, snapshot: bool) -> None:
        self.topics = _topics(streams)
        self.events: collections.deque[Event] = collections.deque()
        self._tracker = Tracker(lambda topic: topic.startswith(self.topics), max_age_s)
        self._joining = snapshot
        self._epoch = ""
        self._kept: list[tuple[str, bytes]] = []
        self._asked = 0
        self._asked_before = 0  # calls to earlier epochs
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
            The message is not of this protocol.
        EndpointError
            The control socket does not answer.
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
        if epoch != self._epoch:  # messages of an earlier epoch are no longer useful
            self._epoch, self._asked_before, self._next_ask = epoch, self._asked, 0.0
            self._kept = [kept for kept in self._kept if messages.decode_any(kept[1]).epoch == epoch]
        if time.monotonic() < self._next_ask:
            return None
        if self._asked - self._asked_before == ATTEMPTS:
            raise EndpointError(
                f"the control socket has not answered {ATTEMPTS} calls for a snapshot",
                wanted="one of the daemon's [control] bind",
                fix="correct the control endpoint and its keys, or omit it to join without a snapshot",
            )
        self._asked += 1
        self._next_ask = time.monotonic() + PAUSE_SECONDS
        return msgspec.json.encode(Request(id=self._asked, op="snapshot"))

    def join(self, reply: bytes) -> None:
        """Take the reply to a call for a snapshot.

        Raises
        ------
        EndpointError
            The call is refused, or the reply is not one to it.
        """
        try:
            answer = msgspec.json.decode(reply, type=ControlReply)
            if not self._joining or (isinstance(answer.id, int) and answer.id <= self._asked_before):
                return  # late, or older than the subscriptions
            if answer.error is not None and answer.error.code == "stopping":
                return  # ask its next run
            if answer.error is not None:
                raise EndpointError(f"the daemon gives no snapshot: {answer.error.message}")
            snapshot = _snapshot_reply.decode(answer.result)
        except msgspec.DecodeError as error:
            raise EndpointError(
                "what answers the call for a snapshot is not the control socket",
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
    """Return the prefixes to subscribe to. Models' states and heartbeats are few and always wanted."""
    if isinstance(streams, str):  # each of its letters would be taken for a stream
        raise UsageError(f"streams={streams!r}", wanted="several names", fix=f"write streams=[{streams!r}]")
    wanted = [f"{prefix}{stream}/" for stream in streams for prefix in (messages.DETECTIONS, messages.STREAM)]
    return (*(wanted or (messages.DETECTIONS, messages.STREAM)), messages.MODEL, messages.HEARTBEAT)
