"""How the log is written: text for people, JSON lines, or the journal's structured fields.

A flood is folded, a fast one and a slow one: what one place in the code says about one thing is written a
few times, then once in five minutes with the count of what was not. What it says at another level is another
thing.

Source: "Native Journal Protocol", systemd.io.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Fold", "LogFormat", "set_up_logging"]

log = logging.getLogger(__name__)

LogFormat = Literal["text", "json", "journal"]
JOURNAL = "/run/systemd/journal/socket"
FOLD_AFTER = 5  # messages of one place about one thing that are written
FOLD_SECONDS = 300.0  # until it may write one more
NAMED = 3  # things that are told by name when their flood is over
PLACES = 1000  # remembered at once
PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}
CONTROLS = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
SHOWN = {code: ascii(chr(code))[1:-1] for code in CONTROLS if code != ord("\n")}  # terminals obey them


@dataclass(slots=True)
class _Said:
    """What one place has said about one thing."""

    left: float
    """How many messages it may write now."""
    at: float
    """When it last spoke."""
    folded: int = 0
    since: float = 0.0
    """When the first of the folded came."""


class Fold(logging.Filter):
    """Lets a few messages of one place about one thing through, and counts the others.

    A message is about its first argument: `log.warning("stream %s: ...", name, ...)`.

    Parameters
    ----------
    clock : callable
        Seconds, steady.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, int, int, str], _Said] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written; it may carry the count of those that were not."""
        first = record.args[0] if isinstance(record.args, tuple) and record.args else ""
        key = (record.pathname, record.lineno, record.levelno, str(first))
        now = self._clock()
        with self._lock:
            said = self._seen.setdefault(key, _Said(FOLD_AFTER, now))
            said.left = min(FOLD_AFTER, said.left + (now - said.at) / FOLD_SECONDS)
            said.at = now
            if said.left < 1:
                said.since = said.since if said.folded else now
                said.folded += 1
                return False
            said.left -= 1
            told = [f"{said.folded} more like this in {now - said.since:.0f} s"] if said.folded else []
            said.folded = 0
            told += self._forget(now)
        if told:
            record.msg, record.args = f"{record.getMessage()} ({'; '.join(told)})", ()
        return True

    def _forget(self, now: float) -> list[str]:
        """Leave out what is long past; what was folded there is told now."""
        past = [key for key, said in self._seen.items() if now - said.at >= FOLD_SECONDS]
        over = [(key[3] or Path(key[0]).stem, self._seen.pop(key).folded) for key in past]
        over = [(name, folded) for name, folded in over if folded]
        if len(self._seen) > PLACES:
            self._seen.clear()
        if len(over) > NAMED:
            return [f"{sum(folded for _, folded in over)} more about {len(over)} others were folded"]
        return [f"{folded} more about {name} were folded" for name, folded in over]


class _Text(logging.Formatter):
    """A line that begins in the first column is a record's first: what others send cannot look like one."""

    default_msec_format = "%s.%03d"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return re.sub(r"\n(?! )", "\n  ", super().format(record).translate(SHOWN))


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
        try:
            self._socket.connect(JOURNAL)
        except OSError:
            self._socket.close()
            raise

    def emit(self, record: logging.LogRecord) -> None:
        fields = {
            "MESSAGE": self.format(record),
            "PRIORITY": str(PRIORITIES.get(record.levelno, 6)),
            "SYSLOG_IDENTIFIER": "qzd",
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "THREAD_NAME": record.threadName or "",
            "CODE_FUNC": record.funcName or "",
        }
        try:
            self._socket.send(b"".join(_field(k, v) for k, v in fields.items()))
        except OSError:
            self.handleError(record)

    def close(self) -> None:
        self._socket.close()
        super().close()


def _field(name: str, value: str) -> bytes:
    """Send a value with a line break with its length, as 64 bits little endian."""
    data = value.encode("utf-8", "replace")
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


def _goes_to_journal() -> bool:
    """Whether standard error is still what JOURNAL_STREAM says. Source: systemd.exec(5)."""
    try:
        error = os.fstat(2)
    except OSError:  # it is closed
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{error.st_dev}:{error.st_ino}"


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
        form = "journal" if _goes_to_journal() else "text"
    handler, missing = _open_handler(form)
    handler.addFilter(Fold())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if missing:
        log.warning("%s: %s; the log goes to standard error", JOURNAL, missing)


def _open_handler(form: LogFormat) -> tuple[logging.Handler, str | None]:
    """Choose where records go, and say why not to the journal if that is not available."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    missing = None
    if form == "journal":
        try:
            handler = _Journal()
        except OSError as error:
            form, missing = "text", error.strerror
    handler.setFormatter({"json": _Json, "text": _Text, "journal": logging.Formatter}[form]())
    return handler, missing
