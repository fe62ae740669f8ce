"""When a frame is handed over: at once, later, or not at all. No clock is read here; time is passed in.

`wait` streams and images lose nothing: `max_fps` makes the source wait. `drop` streams run in real time: a
file plays at its own speed, and `max_fps` leaves frames out, which take their time all the same: no file is
read over and over meanwhile.
"""

from __future__ import annotations

__all__ = ["Pace"]

LEAP_SECONDS = 60.0  # between two frames of a file: it was put together of several, or is damaged
EARLY = 0.1  # of an interval: a camera at max_fps jitters, and must not lose every second frame


class Pace:
    """The pace of one stream.

    Parameters
    ----------
    max_fps : float or None
        Most frames per second.
    real_time : bool
        Frames that come faster are left out, and a file is slowed down to its own speed.
    live : bool
        Frames come when they happen: they have no time of their own, and cannot wait.
    """

    def __init__(self, max_fps: float | None, *, real_time: bool, live: bool = False) -> None:
        self._interval = 1.0 / max_fps if max_fps else 0.0
        self._real_time = real_time
        self._next = float("-inf")
        self._live = live
        self._last = 0.0
        self._step: float | None = None  # between the last two frames of a file
        self._origin: float | None = None

    def wait(self, now: float, pts: float | None) -> float | None:
        """Return the seconds to wait before a frame is handed over; None to leave it out.

        Parameters
        ----------
        now : float
            Seconds, of any steady clock.
        pts : float or None
            The frame's own time, if it has one; not used for a live source.
        """
        has_time = self._live or pts is not None or self._origin is not None
        if not self._real_time or not has_time:
            due = max(now, self._next)
        else:
            due = self._played_at(now, pts)
            if due < self._next - EARLY * self._interval:
                return None
        late = due - self._next
        self._next = (self._next if late < self._interval else due) + self._interval
        return max(0.0, due - now)

    def _played_at(self, now: float, pts: float | None) -> float:
        if self._live or pts is None:
            return now
        step = pts - self._last
        if self._origin is None:
            self._origin = now - pts
        elif 0 < step < LEAP_SECONDS:
            self._step = step
        elif step or self._step is None:  # read again, or put together: the last frame has its time before
            self._origin = max(now, self._origin + self._last + (self._step or self._interval)) - pts
        self._last = pts
        return max(now, self._origin + pts)
