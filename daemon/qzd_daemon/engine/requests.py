"""Frames of callers: they go through a model in turn with its streams, and each is answered once."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from qzd_client import messages
from qzd_daemon.engine.lane import FrameJob, NoResult, send_message
from qzd_daemon.engine.models import LoadedModel
from qzd_daemon.engine.queues import FairQueue, QueuedItem, StreamQueue
from qzd_daemon.engine.selection import Selection
from qzd_daemon.sources.open import SourceFrame
from qzd_ext.detector import Result
from qzd_ext.geometry import Frame

__all__ = ["RequestLane"]

Answer = Callable[[messages.Detections], None]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class RequestJob(FrameJob):
    """A frame with a caller who waits for its result."""

    answer: Answer


class RequestLane:
    """Accepts frames that belong to no stream.

    Parameters
    ----------
    fair_queue : FairQueue
        The model's.
    """

    stream = "(a request)"

    def __init__(self, fair_queue: FairQueue[FrameJob]) -> None:
        # `room` has no bound: the server that submits has one of its own
        self._queue: StreamQueue[FrameJob] = StreamQueue(fair_queue, "wait", room=sys.maxsize)

    def submit(self, frame: Frame, answer: Answer) -> Callable[[], object] | None:
        """Add a frame to the model's queue.

        Parameters
        ----------
        frame : (h, w, 3) uint8, BGR
        answer : callable
            Called once, on another thread, unless the request is cancelled before its turn.

        Returns
        -------
        callable or None
            Cancels the request, if the model has not begun with it. None if the model is no longer served.
        """
        asked = RequestJob(self, 0, SourceFrame(frame), answer)
        if not self._queue.put(asked):
            return None
        waiting = weakref.ref(
            asked
        )  # `answer` may lead to the returned callable: a cycle would keep the frame
        return lambda: (still := waiting()) is not None and self._queue.discard(still)

    def selection(self, served: LoadedModel) -> Selection:
        """Return what the model's own configuration chooses."""
        return served.selection

    def close(self) -> None:
        """Accept no more frames; those that wait are still answered."""
        self._queue.close()

    def finish(
        self, queued: QueuedItem[FrameJob], served: LoadedModel, queue_ms: float, outcome: Result | NoResult
    ) -> None:
        """Answer the caller; `ResultSink.finish` has the parameters."""
        asked = queued.item
        assert isinstance(asked, RequestJob)
        send_message(asked.answer, "", queued, served, queue_ms, outcome)
        self._queue.finish()
