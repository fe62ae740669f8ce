"""Messages into a file, and out of it again, so that a subscriber can be written without a camera.

A recording is JSON lines: `{"received_ns": ..., "topic": "...", "message": {...}}`, each message as it came,
heartbeats too. Played, they come in the same order and at the same pace, as from a daemon that runs now, or
that starts again where another epoch was recorded: with epochs of their own, times that are shifted, and seqs
that begin at 1; what was lost while recording is missing then too. What may live here: that file and its
sockets.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Annotated

import msgspec
import zmq
from msgspec import Meta

from qzd_daemon import wire
from qzd_daemon.door import Door, Limits
from qzd_daemon.reach import Keys, connect
from qzd_ext.errors import DataError

__all__ = ["Line", "Player", "Recorder", "read_recording"]

LIMITS = Limits(message_bytes=1024, connections=1000, send_hwm=10_000, receive_hwm=100)
RECEIVE_HWM = 100_000  # a file must lose nothing
LINGER_MS = 1000
WAIT_MS = 100
LONGEST_PAUSE_SECONDS = 86400.0


class Line(msgspec.Struct, frozen=True):
    """One message of a recording."""

    received_ns: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    topic: str
    message: msgspec.Raw


class Recorder:
    """Writes what is published into a file.

    Parameters
    ----------
    endpoint : str
    keys : Keys or None
    file : binary file
    """

    def __init__(self, endpoint: str, keys: Keys | None, file: IO[bytes]) -> None:
        self._file = file
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, RECEIVE_HWM)
        self._socket.subscribe(wire.PREFIX)
        try:
            connect(self._socket, endpoint, keys)
        except BaseException:
            self.close()
            raise

    def record(self, timeout: float) -> str | None:
        """Wait for a message and write it; its topic, or None after so many seconds without one.

        Raises
        ------
        msgspec.DecodeError
            What was received is not of this protocol.
        OSError
            The file cannot be written.
        """
        if not self._socket.poll(round(timeout * 1e3)):
            return None
        frames = self._socket.recv_multipart()
        if len(frames) != 2:
            raise msgspec.DecodeError(f"a message of {len(frames)} frames instead of [topic, JSON]")
        line = Line(time.time_ns(), frames[0].decode(), msgspec.Raw(frames[1]))
        self._file.write(msgspec.json.encode(line) + b"\n")
        return line.topic

    def close(self) -> None:
        """Let go of the socket."""
        self._context.destroy(linger=0)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_recording(path: Path) -> Iterator[tuple[Line, wire.Message | wire.Other]]:
    """The messages of a recording, in order.

    Raises
    ------
    DataError
        The file cannot be read, or a line of it is no message; the line is named.
    """
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, 1):
                yield _read_line(text, f"{path}, line {number}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", fix="correct the path") from error


def _read_line(text: bytes, where: str) -> tuple[Line, wire.Message | wire.Other]:
    try:
        line = msgspec.json.decode(text, type=Line)
        return line, wire.decode_any(bytes(line.message))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(
            f"{where}: {error}",
            wanted='{"received_ns": ..., "topic": "...", "message": {...}}',
            fix="make it again with `qzdctl record`",
        ) from error


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
        self._door = Door()
        try:
            self._entrance = self._door.open("replay", zmq.XPUB, bind, LIMITS)
        except BaseException:
            self._door.close()
            raise
        self.endpoints = self._entrance.endpoints
        self._door.start()

    def wait(self) -> None:
        """Wait for a subscriber."""
        while not self._entrance.socket.poll(WAIT_MS):
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
        play = _Play()
        began_ns = time.time_ns()
        for line, message in read_recording(path):
            at_ns = began_ns + round(play.offset_ns(line) / speed) if speed else 0
            if (wait := at_ns - time.time_ns()) > 0:
                sleep(min(wait / 1e9, LONGEST_PAUSE_SECONDS))
            self._send(line.topic, play.renew(line, message))
        if play.is_empty:
            raise DataError(f"{path}: there is no message in it", fix="make it again with `qzdctl record`")
        if not play.has_stopped:
            self._send(wire.HEARTBEAT, wire.encode(play.last()))
        return play.messages

    def _send(self, topic: str, payload: bytes) -> None:
        self._entrance.socket.send_multipart([topic.encode(), payload])

    def close(self) -> None:
        """Wait a moment for subscribers to take what was sent, then let go."""
        self._entrance.close(LINGER_MS)
        self._door.close()


class _Play:
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
        """A daemon starts."""
        self._epoch = str(uuid.uuid4())
        self._before: dict[str, int] = {}  # the seq before a topic's first one in the recording
        self._last: dict[str, int] = {}
        self._beats = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing was sent, not even a heartbeat."""
        return self._recorded is None

    def offset_ns(self, line: Line) -> int:
        """When a line came, counted from the first."""
        if self._first_ns is None:
            self._first_ns = line.received_ns
        return line.received_ns - self._first_ns

    def renew(self, line: Line, message: wire.Message | wire.Other) -> bytes:
        """The message with this round's epoch, seq and times; all else in it stays, known here or not."""
        if message.epoch != self._recorded:
            self._recorded = message.epoch
            self._begin()
        if isinstance(message, wire.Heartbeat):
            self._interval_ms = message.interval_ms
            return wire.encode(self._beat(message.state, self._topics(message)))
        self.messages += 1
        self.has_stopped = False
        now = time.time_ns()
        before = self._before.setdefault(line.topic, message.seq - 1)
        self._last[line.topic] = message.seq - before
        changes = {"epoch": self._epoch, "seq": self._last[line.topic], "published_ns": now}
        if isinstance(message, wire.Detections):
            changes["captured_ns"] = now - (message.published_ns - message.captured_ns)
        fields = msgspec.json.decode(line.message, type=dict[str, msgspec.Raw])
        return msgspec.json.encode({**fields, **changes})

    def _topics(self, beat: wire.Heartbeat) -> dict[str, int]:
        """What the recorded heartbeat says of the topics that the recording holds."""
        known = beat.topics.keys() & self._before.keys()
        return {topic: beat.topics[topic] - self._before[topic] for topic in known}

    def _beat(self, state: wire.BeatState, topics: dict[str, int]) -> wire.Heartbeat:
        self._beats += 1
        self.has_stopped = state == "stopping"
        return wire.Heartbeat(
            epoch=self._epoch,
            seq=self._beats,
            published_ns=time.time_ns(),
            state=state,
            interval_ms=self._interval_ms,
            topics=topics,
        )

    def last(self) -> wire.Heartbeat:
        """The end of the epoch."""
        return self._beat("stopping", self._last)
