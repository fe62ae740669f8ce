"""Remember the last minute, the last frame and the last faults of each stream."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable
from typing import Any

from qzd_client import messages

__all__ = ["SECONDS", "History"]

SECONDS = 60
REASONS = 8
PENDING = 1000  # messages that came while a viewer was reading
LABELS = 12  # shown of one stream, the most frequent first


class _Stream:
    def __init__(self) -> None:
        self.counts: dict[int, collections.Counter[str]] = {}  # most boxes of a label in one frame, by second
        self.last: messages.Detections | None = None
        self.reasons: collections.deque[tuple[int, str]] = collections.deque(maxlen=REASONS)


class History:
    """Watch the messages that are sent.

    Parameters
    ----------
    clock : callable
        Unix time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pending: collections.deque[messages.Message] = collections.deque(maxlen=PENDING)
        self._streams: dict[str, _Stream] = {}

    def observe(self, message: messages.Message) -> None:
        """Take in a message that was sent; the publisher never waits for a viewer who reads."""
        self._pending.append(message)
        if self._lock.acquire(blocking=False):
            try:
                self._take_in()
            finally:
                self._lock.release()

    def _take_in(self) -> None:
        """Count what is pending; the lock is held."""
        while self._pending:
            message = self._pending.popleft()
            match message:
                case messages.Detections():
                    self._observe_frame(self._streams.setdefault(message.stream, _Stream()), message)
                case messages.StreamState(state="removed"):
                    self._streams.pop(message.stream, None)
                case messages.StreamState(reason=str(reason)):
                    stream = self._streams.setdefault(message.stream, _Stream())
                    self._note(stream, f"{message.state}: {reason}")

    def _observe_frame(self, stream: _Stream, message: messages.Detections) -> None:
        stream.last = message
        if message.outcome != "ok":
            self._note(stream, f"{message.outcome}: {message.reason}")
        second = int(self._clock())
        if second not in stream.counts:
            stream.counts[second] = collections.Counter()
            for old in [s for s in stream.counts if s <= second - SECONDS]:
                del stream.counts[old]
        stream.counts[second] |= collections.Counter(
            one.label for one in message.detections or message.classes or ()
        )

    def _note(self, stream: _Stream, text: str) -> None:
        """Keep a reason once while it repeats."""
        if stream.reasons and stream.reasons[-1][1] == text:
            stream.reasons.pop()
        stream.reasons.append((int(self._clock()), text))

    def of(self, name: str) -> dict[str, Any]:
        """Return the history of a stream, of JSON's types.

        `counts` has for each label the most that one frame showed, for each of the last 60 seconds.
        """
        with self._lock:
            self._take_in()
            stream = self._streams.get(name)
            if stream is None:
                return {"last": None, "counts": {}, "reasons": []}
            end = int(self._clock())
            moments = range(end - SECONDS + 1, end + 1)
            seconds = [collections.Counter(stream.counts.get(moment)) for moment in moments]
            last, reasons = stream.last, list(stream.reasons)
        totals = collections.Counter[str]()
        for second in seconds:
            totals.update(second)
        labels = sorted(label for label, _ in totals.most_common(LABELS))
        return {
            "last": None if last is None else _frame(last),
            "counts": {label: [second[label] for second in seconds] for label in labels},
            "reasons": [{"at": at, "text": text} for at, text in reversed(reasons)],
        }


def _frame(message: messages.Detections) -> dict[str, Any]:
    return {
        "frame": message.frame,
        "outcome": message.outcome,
        "reason": message.reason,
        "width": message.width,
        "height": message.height,
        "found": len(message.detections or message.classes or ()),
    }
