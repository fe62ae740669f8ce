"""Publish recordings, as a daemon that runs now would.

The messages come in the same order and at the same pace as they were recorded. Each epoch of the recording
becomes a new epoch: times are shifted and seqs begin at 1. Messages that were lost while recording are
missing here too.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq

from qzd_client import messages
from qzd_client.recording import Line, read_recording
from qzd_daemon.transport.listener import Limits, Listener
from qzd_ext.errors import DataError

__all__ = ["Player"]

LIMITS = Limits(message_bytes=1024, connections=1000, send_hwm=10_000, receive_hwm=100)
LINGER_MS = 1000
WAIT_MS = 100
LONGEST_PAUSE_SECONDS = 86400.0


class Player:
    """Publishes recordings.

    Parameters
    ----------
    bind : tuple of str
        Endpoints.

    Raises
    ------
    EndpointError
        One cannot be bound.
    """

    def __init__(self, bind: tuple[str, ...]) -> None:
        self._listener = Listener()
        try:
            self._bound_socket = self._listener.open("replay", zmq.XPUB, bind, LIMITS)
        except BaseException:
            self._listener.close()
            raise
        self.endpoints = self._bound_socket.endpoints
        self._listener.start()

    def wait(self) -> None:
        """Wait for a subscriber."""
        while not self._bound_socket.socket.poll(WAIT_MS):
            pass

    def play(self, path: Path, speed: float | None, sleep: Callable[[float], None] = time.sleep) -> int:
        """Publish a recording as an epoch of its own.

        Parameters
        ----------
        path : Path
        speed : float or None
            1 for the pace at which it was recorded; None for as fast as it goes.

        Returns
        -------
        int
            How many messages it has, heartbeats apart.

        Raises
        ------
        DataError
            It cannot be read, or there is nothing in it.
        """
        play = _Playback()
        began_ns = time.time_ns()
        for line, message in read_recording(path):
            at_ns = began_ns + round(play.offset_ns(line) / speed) if speed else 0
            if (wait := at_ns - time.time_ns()) > 0:
                sleep(min(wait / 1e9, LONGEST_PAUSE_SECONDS))
            self._send(line.topic, play.renew(line, message))
        if play.is_empty:
            raise DataError(f"{path}: there is no message in it", fix="make it again with `qzdctl record`")
        if not play.has_stopped:
            self._send(messages.HEARTBEAT, messages.encode(play.last()))
        return play.messages

    def _send(self, topic: str, payload: bytes) -> None:
        self._bound_socket.socket.send_multipart([topic.encode(), payload])

    def close(self) -> None:
        """Wait a moment for subscribers to take what was sent, then close."""
        self._bound_socket.close(LINGER_MS)
        self._listener.close()


class _Playback:
    """One round of a recording: what makes its messages those of a daemon that runs now.

    Attributes
    ----------
    messages : int
        Of all epochs, so far, heartbeats apart.
    has_stopped : bool
        The last message has said so.
    """

    def __init__(self) -> None:
        self.messages = 0
        self.has_stopped = False
        self._recorded: str | None = None  # the epoch in the recording
        self._first_ns: int | None = None
        self._interval_ms = 1000
        self._begin()

    def _begin(self) -> None:
        """Begin an epoch, as a daemon that starts does."""
        self._epoch = str(uuid.uuid4())
        self._before: dict[str, int] = {}  # the seq before a topic's first one in the recording
        self._last: dict[str, int] = {}
        self._beats = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing was sent, not even a heartbeat."""
        return self._recorded is None

    def offset_ns(self, line: Line) -> int:
        """Return the time from the first line to this one."""
        if self._first_ns is None:
            self._first_ns = line.received_ns
        return line.received_ns - self._first_ns

    def renew(self, line: Line, message: messages.Message | messages.UnknownMessage) -> bytes:
        """Return the message with this round's epoch, seq and times; all other fields stay."""
        if message.epoch != self._recorded:
            self._recorded = message.epoch
            self._begin()
        if isinstance(message, messages.Heartbeat):
            self._interval_ms = message.interval_ms
            return messages.encode(self._beat(message.state, self._topics(message)))
        self.messages += 1
        self.has_stopped = False
        now = time.time_ns()
        before = self._before.setdefault(line.topic, message.seq - 1)
        self._last[line.topic] = message.seq - before
        changes = {"epoch": self._epoch, "seq": self._last[line.topic], "published_ns": now}
        if isinstance(message, messages.Detections):
            changes["captured_ns"] = now - (message.published_ns - message.captured_ns)
        fields = msgspec.json.decode(line.message, type=dict[str, msgspec.Raw])
        return msgspec.json.encode({**fields, **changes})

    def _topics(self, beat: messages.Heartbeat) -> dict[str, int]:
        """Return the seqs of a recorded heartbeat, renumbered, for the topics that the recording holds."""
        known = beat.topics.keys() & self._before.keys()
        return {topic: beat.topics[topic] - self._before[topic] for topic in known}

    def _beat(self, state: messages.BeatState, topics: dict[str, int]) -> messages.Heartbeat:
        self._beats += 1
        self.has_stopped = state == "stopping"
        return messages.Heartbeat(
            epoch=self._epoch,
            seq=self._beats,
            published_ns=time.time_ns(),
            state=state,
            interval_ms=self._interval_ms,
            topics=topics,
        )

    def last(self) -> messages.Heartbeat:
        """Return the heartbeat that ends the epoch."""
        return self._beat("stopping", self._last)
