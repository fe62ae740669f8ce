"""A file or directory that cannot be opened yet: its stream has failed, and it is tried again."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator

from qzd_daemon.sources.cameras import Pause
from qzd_daemon.sources.frames import SourceFrame, SourceState
from qzd_daemon.sources.open import Source
from qzd_ext.errors import SourceError

__all__ = ["RetriedSource"]


class RetriedSource:
    """A source that is opened as soon as it can be.

    Parameters
    ----------
    open_source : callable
        Opens it, or raises SourceError.
    error : SourceError
        Why it cannot be opened now.
    """

    live = False

    def __init__(self, open_source: Callable[[], Source], error: SourceError) -> None:
        self._open = open_source
        self._error = error
        self._source: Source | None = None
        self._pause = Pause(random.Random())  # noqa: S311 - not a secret

    @property
    def end(self) -> str:
        """How the source ended."""
        return self._source.end if self._source else ""

    @property
    def complete(self) -> bool:
        """Whether all that the source promised has come."""
        return self._source is not None and self._source.complete

    def frames(self, stopping: threading.Event) -> Iterator[SourceFrame | SourceState]:
        """Deliver the state `failed` until the source can be opened, then what it delivers."""
        while self._source is None and not stopping.is_set():
            seconds = self._pause.next()
            yield SourceState("failed", f"{self._error}; next try in {seconds:.1f} s")
            stopping.wait(seconds)
            try:
                self._source = self._open()
            except SourceError as error:
                self._error = error
        if self._source is not None:
            yield from self._source.frames(stopping)

    def close(self) -> None:
        """Close the source if it was opened."""
        if self._source is not None:
            self._source.close()
