"""Record published messages into a file, and read that file.

A recording is JSON lines, `{"received_ns": ..., "topic": "...", "message": {...}}`: each message as it was
received, heartbeats included. `qzdctl replay` publishes a recording.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated

import msgspec
import zmq
from msgspec import Meta

from qzd_client import messages
from qzd_client.closing import Closing
from qzd_client.connect import Keys, connect
from qzd_client.errors import DataError

__all__ = ["Line", "Recorder", "read_recording"]

RECEIVE_HWM = 100_000  # a file must lose nothing


class Line(msgspec.Struct, frozen=True):
    """One message of a recording."""

    received_ns: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    topic: str
    message: msgspec.Raw


class Recorder(Closing):
    """Write what is published into a file.

    Parameters
    ----------
    endpoint : str
        One of the daemon's `[publish] bind`.
    keys : Keys or None
        CURVE keys for a TCP endpoint.
    file : binary file
        Open for writing; the caller closes it.
    """

    def __init__(self, endpoint: str, keys: Keys | None, file: IO[bytes]) -> None:
        self._file = file
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, RECEIVE_HWM)
        self._socket.subscribe(messages.PREFIX)
        try:
            connect(self._socket, endpoint, keys)
        except BaseException:
            self.close()
            raise

    def record(self, timeout: float) -> str | None:
        """Wait for a message and write it; return its topic, or None if `timeout` seconds pass without one.

        Raises
        ------
        msgspec.DecodeError
            The message is not of this protocol.
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
        """Close the socket."""
        self._context.destroy(linger=0)


def read_recording(path: Path) -> Iterator[tuple[Line, messages.Message | messages.UnknownMessage]]:
    """Yield the lines of a recording in order, each with its message.

    Raises
    ------
    DataError
        The file cannot be read, or one of its lines is not a message; the error names the line.

    Examples
    --------
    ::

        for line, message in read_recording(Path("night.jsonl")):
            if isinstance(message, Detections):
                print(line.received_ns, message.stream, message.outcome)
    """
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, 1):
                yield _read_line(text, f"{path}, line {number}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", fix="correct the path") from error


def _read_line(text: bytes, where: str) -> tuple[Line, messages.Message | messages.UnknownMessage]:
    try:
        line = msgspec.json.decode(text, type=Line)
        return line, messages.decode_any(bytes(line.message))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(
            f"{where}: {error}",
            wanted='{"received_ns": ..., "topic": "...", "message": {...}}',
            fix="record it again with `qzdctl record`",
        ) from error
