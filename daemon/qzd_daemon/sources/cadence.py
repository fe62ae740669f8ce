"""Pictures that are absent by a video's own clock: a gap in timestamps that were even before."""

from __future__ import annotations

from fractions import Fraction

__all__ = ["Cadence"]

EVEN = 16  # intervals that are alike, before a longer one is a gap
TOLERANCE_SECONDS = 0.0015  # per interval: Matroska rounds to milliseconds
LONGEST_SECONDS = 60.0  # a longer gap is a cut, or another clock


class Cadence:
    """Follows the times of one video's pictures.

    Parameters
    ----------
    rate : Fraction or None
        Pictures per second, if the container says that they are even.

    Attributes
    ----------
    last : float or None
        Time of the last picture in seconds.
    """

    def __init__(self, rate: Fraction | None) -> None:
        self.last: float | None = None
        self._interval = float(1 / rate) if rate else 0.0
        self._alike = EVEN if rate else 0

    def absent(self, time: float) -> int:
        """Note a picture's time in seconds; return how many pictures are absent before it."""
        last, self.last = self.last, time
        if last is None:
            return 0
        gap = time - last
        if abs(gap - self._interval) < TOLERANCE_SECONDS:
            self._alike += 1
            return 0
        count = round(gap / self._interval) if self._interval > 0 else 0
        is_multiple = count > 1 and abs(gap - count * self._interval) < count * TOLERANCE_SECONDS
        if self._alike >= EVEN and is_multiple and gap < LONGEST_SECONDS:
            return count - 1
        self._interval, self._alike = gap, 0
        return 0
