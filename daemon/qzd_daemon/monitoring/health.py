"""Whether the daemon does its work: what is wrong now, concluded from what it has published."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from qzd_client import messages

__all__ = ["Health"]

UP = ("running", "ended", "removed")  # a file that has ended, and a stream that was taken out, are not down


class Health:
    """Models that have failed, and sources that are down.

    Parameters
    ----------
    clock : callable
        Seconds, steady.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[str, str] = {}
        self._down: dict[str, tuple[float, str]] = {}
        self._lock = threading.Lock()

    def observe(self, message: messages.Message) -> None:
        """Note a message that was sent."""
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
        """What keeps the daemon from being ready.

        Parameters
        ----------
        limits : mapping
            How many seconds each stream may be down; of others, which are being removed, nothing is said.
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
