"""How the log is written: text for people, JSON lines, or the journal's structured fields.

Source: "Native Journal Protocol", systemd.io. What may live here: form and destination; what is said is
said with the standard library's logging, by everyone.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from typing import Literal

__all__ = ["LogFormat", "set_up_logging"]

LogFormat = Literal["text", "json", "journal"]
JOURNAL = "/run/systemd/journal/socket"
PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class _Text(logging.Formatter):
    default_msec_format = "%s.%03d"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")


class _Json(logging.Formatter):
    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _Journal(logging.Handler):
    """Sends each record to the journal with its level, logger and place in the code."""

    def __init__(self) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.connect(JOURNAL)

    def emit(self, record: logging.LogRecord) -> None:
        fields = {
            "MESSAGE": self.format(record),
            "PRIORITY": str(PRIORITIES.get(record.levelno, 6)),
            "SYSLOG_IDENTIFIER": "qzd",
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "THREAD_NAME": record.threadName or "",
        }
        try:
            self._socket.send(b"".join(_field(k, v) for k, v in fields.items()))
        except OSError:
            self.handleError(record)

    def close(self) -> None:
        self._socket.close()
        super().close()


def _field(name: str, value: str) -> bytes:
    """A value with a line break is sent with its length, as 64 bits little endian."""
    data = value.encode("utf-8", "replace")
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


def set_up_logging(level: str, form: LogFormat | None) -> None:
    """Send the log to standard error, or to the journal where that is what standard error is.

    Parameters
    ----------
    level : str
        A level's name in logging.
    form : LogFormat or None
        None for the journal under systemd, and text elsewhere.
    """
    if form is None:
        form = "journal" if os.environ.get("JOURNAL_STREAM") else "text"
    handler: logging.Handler = _Journal() if form == "journal" else logging.StreamHandler(sys.stderr)
    if form != "journal":
        handler.setFormatter(_Json() if form == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
