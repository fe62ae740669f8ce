"""Keep the last lines of the log, for the page."""

from __future__ import annotations

import collections
import logging

__all__ = ["RecentLog"]

LINES = 40


class RecentLog(logging.Handler):
    """Keep the last records from INFO on, as text."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
        self._lines: collections.deque[str] = collections.deque(maxlen=LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self._lines.append(self.format(record).partition("\n")[0])

    def lines(self) -> list[str]:
        """Return the last lines, the oldest first."""
        return list(self._lines)
