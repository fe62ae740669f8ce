"""Conclude from the published messages what keeps the daemon from being ready."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from qzd_client import messages

__all__ = ["Health"]

UP = ("running", "ended", "removed")  # an ended file and a removed stream are not down


class Health:
    """Track models that have failed and sources that are down.

    Parameters
    ----------
    clock : callable
        Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[str, str] = {}
        self._down: dict[str, tuple[float, str]] = {}
        self._lock = threading.Lock()

    def observe(self, message: messages.Message) -> None:
        """Take in a message that was sent."""
        with self._lock:
            match message:
                case messages.ModelState(state="failed"):
                    self._failed[message.model.name] = message.reason or "it failed"
                case messages.ModelState():
                    self._failed.pop(message.model.name, None)
                case messages.StreamState() if message.state in UP:
                    self._down.pop(message.stream, None)
                case messages.StreamState():
                    since = self._down.get(message.stream, (self._clock(), ""))[0]
                    self._down[message.stream] = (since, message.reason or message.state)

    def problems(self, limits: Mapping[str, float]) -> list[str]:
        """Return what keeps the daemon from being ready.

        Parameters
        ----------
        limits : mapping
            Seconds that each stream may be down. Streams that are not listed are left out.
        """
        now = self._clock()
        with self._lock:
            models = [f"model {name}: {reason}" for name, reason in self._failed.items()]
            streams = [
                f"stream {name}: down for {now - since:.0f} s: {reason}"
                for name, (since, reason) in self._down.items()
                if now - since > limits.get(name, float("inf"))
            ]
        return models + streams
