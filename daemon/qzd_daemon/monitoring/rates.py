"""Keep the frame rate, latency and drops of each stream over the last seconds."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from typing import NamedTuple

from qzd_client import messages
from qzd_client.requests import StreamRates

__all__ = ["WINDOW_SECONDS", "Rates"]

WINDOW_SECONDS = 10.0
MAX_FRAMES = 2048  # per topic: 200 frames per second over the window


class _Frame(NamedTuple):
    at: float
    latency_ms: float
    dropped: int
    captured_ns: int
    ok: bool


class _Window:
    """The last frames of one stream through one model."""

    def __init__(self, now: float) -> None:
        self.began = now
        self.frames: collections.deque[_Frame] = collections.deque(maxlen=MAX_FRAMES)

    def recent(self, now: float) -> tuple[list[_Frame], float]:
        """Return the frames of the window, and the seconds that they stand for."""
        kept = list(self.frames)  # in C, so the publisher's append cannot come between
        recent = [frame for frame in kept if frame.at > now - WINDOW_SECONDS]
        full = len(recent) == MAX_FRAMES
        since = recent[0].at if full else max(self.began, now - WINDOW_SECONDS)
        return recent, max(now - since, 1.0)


class Rates:
    """Watch the messages that are sent.

    Parameters
    ----------
    clock : callable
        Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[str, dict[str, _Window]] = {}

    def observe(self, message: messages.Message) -> None:
        """Take in a message that was sent; only the publisher calls it."""
        match message:
            case messages.Detections(stream=stream, model=model):
                now = self._clock()
                windows = self._windows.setdefault(stream, {})
                window = windows.get(model.name) or windows.setdefault(model.name, _Window(now))
                latency_ms = max(0, message.published_ns - message.captured_ns) / 1e6
                ok = message.outcome == "ok"
                frame = _Frame(now, latency_ms, message.dropped_before, message.captured_ns, ok)
                window.frames.append(frame)
            case messages.StreamState(stream=stream, state="removed"):
                self._windows.pop(stream, None)

    def of(self, stream: str) -> StreamRates:
        """Return the rates of a stream over the last `WINDOW_SECONDS`.

        A stream through several models has the frame rate of the fastest, and the latencies of all.
        """
        now = self._clock()
        windows = list(self._windows.get(stream, {}).values())
        seen = [window.recent(now) for window in windows]
        frames = [frame for recent, _ in seen for frame in recent]
        dropped = sum(frame.dropped for frame in frames)
        latencies = sorted(frame.latency_ms for frame in frames if frame.ok)
        last = [window.frames[-1].captured_ns for window in windows if window.frames]
        return StreamRates(
            fps=round(max((len(recent) / seconds for recent, seconds in seen), default=0.0), 2),
            latency_p50_ms=_quantile(latencies, 0.5),
            latency_p99_ms=_quantile(latencies, 0.99),
            dropped=round(dropped / max(1, dropped + len(frames)), 4),
            last_frame_ns=max(last, default=None),
        )


def _quantile(values: list[float], share: float) -> float | None:
    """Return the nearest rank of sorted values; None of none."""
    return round(values[min(len(values) - 1, int(share * len(values)))], 3) if values else None
