"""Requests through one model: in turn with its streams, in any order among themselves, each answered once."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from qzd_client import messages
from qzd_daemon.engine.lane import FrameJob, NoResult, make_message
from qzd_daemon.engine.models import LoadedModel
from qzd_daemon.engine.queues import FairQueue, QueuedItem, StreamQueue
from qzd_daemon.sources.open import SourceFrame
from qzd_ext.detector import Result
from qzd_ext.geometry import Frame

__all__ = ["RequestLane"]

Answer = Callable[[messages.Detections], None]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class RequestJob(FrameJob):
    """A frame with somebody who waits for what is in it."""

    answer: Answer


class RequestLane:
    """Where frames are handed in that belong to no stream.

    Parameters
    ----------
    fair_queue : FairQueue
        The model's.
    """

    stream = "(a request)"

    def __init__(self, fair_queue: FairQueue[FrameJob]) -> None:
        self._queue: StreamQueue[FrameJob] = StreamQueue(
            fair_queue, "wait", room=sys.maxsize
        )  # who asks keeps count

    def submit(self, frame: Frame, answer: Answer) -> Callable[[], object] | None:
        """Hand a frame in.

        Parameters
        ----------
        frame : (h, w, 3) uint8, BGR
        answer : callable
            Called once, from any thread, unless it is cancelled before its turn.

        Returns
        -------
        callable or None
            Cancels the request, as far as the model has not begun with it. None where the desk is closed: the
            model serves no more.
        """
        asked = RequestJob(self, 0, SourceFrame(frame), answer)
        if not self._queue.put(asked):
            return None
        waiting = weakref.ref(asked)  # `answer` may lead to what is returned: a ring would keep the frame
        return lambda: (still := waiting()) is not None and self._queue.discard(still)

    def close(self) -> None:
        """Take nothing more; what waits is still answered."""
        self._queue.close()

    def finish(
        self, queued: QueuedItem[FrameJob], served: LoadedModel, queue_ms: float, outcome: Result | NoResult
    ) -> None:
        """Answer. Called by the scheduler, as `Lane.finish`."""
        asked = queued.item
        assert isinstance(asked, RequestJob)
        asked.answer(make_message("", queued, served, queue_ms, outcome))
