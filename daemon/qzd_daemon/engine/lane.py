"""A lane: one stream through one model, from a captured frame to its message, in frame order.

Requests end in any order; a lane holds back what came early, so that every frame is published once and in
its turn.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from qzd_client import messages
from qzd_client.requests import WhenBehind
from qzd_daemon.engine.models import LoadedModel
from qzd_daemon.engine.queues import FairQueue, QueuedItem, StreamQueue
from qzd_daemon.sources.open import SourceFrame
from qzd_ext.detections import Classes, Detections, FloatArray
from qzd_ext.detector import Result

__all__ = ["FrameJob", "Lane", "NoResult", "ResultSink", "make_message"]

Publish = Callable[[str, messages.Message], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class FrameJob:
    """A frame of a stream on its way through one model.

    Attributes
    ----------
    lane : ResultSink
    index : int
        Counts what the source delivered, from 0.
    captured : SourceFrame
    """

    lane: ResultSink
    index: int
    captured: SourceFrame


@dataclass(frozen=True, slots=True)
class NoResult:
    """Nothing is known of a frame, and why."""

    outcome: messages.NoResultOutcome
    reason: str


class ResultSink(Protocol):
    """Where a frame comes from and its result goes: the `Lane` of a stream, or a `RequestLane`."""

    @property
    def stream(self) -> str:
        """Its name, for the log."""
        ...

    def finish(
        self, queued: QueuedItem[FrameJob], served: LoadedModel, queue_ms: float, outcome: Result | NoResult
    ) -> None:
        """Hand on what became of it."""
        ...


class Lane:
    """One stream through one model.

    Parameters
    ----------
    stream, model : str
        Their names.
    fair_queue : FairQueue
        The model's.
    when_behind : "drop" or "wait"
    publish : callable
        Takes a topic and a message; called in frame order, from any thread.
    """

    def __init__(
        self,
        stream: str,
        model: str,
        fair_queue: FairQueue[FrameJob],
        when_behind: WhenBehind,
        publish: Publish,
    ) -> None:
        self.stream = stream
        self.model = model
        self.queue: StreamQueue[FrameJob] = StreamQueue(fair_queue, when_behind)
        self._topic = messages.detections_topic(stream, model)
        self._publish = publish
        self._lock = threading.Lock()
        self._published = 0
        self._early: dict[int, tuple[QueuedItem[FrameJob], LoadedModel, float, Result | NoResult]] = {}

    @property
    def idle(self) -> bool:
        """Whether everything that was put into the mailbox has been published."""
        return self.queue.is_done(self._published)

    def finish(
        self, queued: QueuedItem[FrameJob], served: LoadedModel, queue_ms: float, outcome: Result | NoResult
    ) -> None:
        """Publish what became of a frame, as soon as all before it are published.

        Parameters
        ----------
        queued : QueuedItem
            As it was taken out of the lane's mailbox.
        served : LoadedModel
            The model that answered.
        queue_ms : float
            How long the frame waited for an idle request.
        outcome : Result or NoResult
            What was found, or why nothing is known.
        """
        with self._lock:
            self._early[queued.order] = (queued, served, queue_ms, outcome)
            while (ready := self._early.pop(self._published, None)) is not None:
                self._publish_result(*ready)
                self._published += 1

    def _publish_result(
        self, queued: QueuedItem[FrameJob], served: LoadedModel, queue_ms: float, outcome: Result | NoResult
    ) -> None:
        """Publish the result, or an error in its place: no frame may hold back those that follow."""
        try:
            self._publish(self._topic, make_message(self.stream, queued, served, queue_ms, outcome))
        except Exception as error:
            log.exception("stream %s: frame %d could not be published", self.stream, queued.item.index)
            failed = NoResult(
                "error", f"its message could not be made or sent: {type(error).__name__}: {error}"
            )
            with contextlib.suppress(Exception):  # then the publisher fails, which is logged above
                self._publish(self._topic, make_message(self.stream, queued, served, queue_ms, failed))


def make_message(
    stream: str,
    queued: QueuedItem[FrameJob],
    served: LoadedModel,
    queue_ms: float,
    outcome: Result | NoResult,
) -> messages.Detections:
    """What became of a frame, as it is published; the parameters are those of `Lane.finish`."""
    captured = queued.item.captured
    height, width = captured.frame.shape[:2] if captured.frame is not None else (0, 0)
    stages = (0.0, 0.0, 0.0)
    if isinstance(outcome, Result):
        timing = outcome.timing
        stages = (timing.preprocess, timing.inference, timing.postprocess)
    return messages.Detections(
        stream=stream,
        frame=queued.item.index,
        captured_ns=captured.captured_ns,
        pts_s=captured.pts_s,
        file=captured.file,
        width=width,
        height=height,
        outcome=outcome.outcome if isinstance(outcome, NoResult) else "ok" if captured.whole else "damaged",
        reason=outcome.reason if isinstance(outcome, NoResult) else captured.reason,
        dropped_before=queued.dropped_before,
        model=served.info,
        timing_ms=messages.StageTimes(*(round(ms, 3) for ms in (queue_ms, *stages))),
        thresholds=served.thresholds,
        **(_found(outcome.found, served) if isinstance(outcome, Result) else {}),
    )


def _found(found: Detections | Classes, served: LoadedModel) -> dict[str, Any]:
    """The fields of a message that hold what was found."""
    label = served.detector.bundle.manifest.labels.name
    classes = found.class_ids.tolist()
    scores = _rounded(found.scores, 5)
    if isinstance(found, Classes):
        return {
            "classes": [messages.ClassScore(c, label(c), s) for c, s in zip(classes, scores, strict=True)]
        }
    boxes = _rounded(found.boxes, 3)
    listed = [messages.Box(c, label(c), s, tuple(b)) for c, s, b in zip(classes, scores, boxes, strict=True)]
    return {"detections": listed, "truncated": found.truncated}


def _rounded(values: FloatArray, decimals: int) -> list[Any]:
    return values.astype(np.float64).round(decimals).tolist()  # type: ignore[no-any-return]
