"""A lane: one stream through one model, from a captured frame to its message."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from qzd_client import messages
from qzd_client.requests import WhenBehind
from qzd_daemon.config.schema import StreamConfig
from qzd_daemon.engine.models import LoadedModel
from qzd_daemon.engine.queues import FairQueue, QueuedItem, StreamQueue
from qzd_daemon.engine.selection import Selection
from qzd_daemon.sources.open import SourceFrame
from qzd_ext.detections import Classes, Detections, FloatArray
from qzd_ext.detector import Result
from qzd_ext.geometry import Frame, Picture

__all__ = ["FrameJob", "Lane", "Look", "NoResult", "ResultSink", "make_message", "send_message"]

Publish = Callable[[str, messages.Message], None]
Look = Callable[[messages.Detections, Frame | Picture | None], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class FrameJob:
    """A frame of a stream on its way through one model.

    Attributes
    ----------
    lane : ResultSink
        Where its result goes.
    index : int
        Counts the frames that the source delivered, from 0.
    captured : SourceFrame
    """

    lane: ResultSink
    index: int
    captured: SourceFrame


@dataclass(frozen=True, slots=True)
class NoResult:
    """Nothing is known about a frame, and why."""

    outcome: messages.NoResultOutcome
    reason: str


class ResultSink(Protocol):
    """Where the result of a frame goes: the `Lane` of a stream, or a `RequestLane`."""

    @property
    def stream(self) -> str:
        """Its name, for the log."""
        ...

    def selection(self, served: LoadedModel) -> Selection:
        """Return what is published of a model's results."""
        ...

    def finish(
        self, queued: QueuedItem[FrameJob], served: LoadedModel, queue_ms: float, outcome: Result | NoResult
    ) -> None:
        """Send the result of a frame. Never raises.

        Parameters
        ----------
        queued : QueuedItem
            As it was taken out of its queue.
        served : LoadedModel
            The model that answered.
        queue_ms : float
            How long the frame waited for an idle infer request.
        outcome : Result or NoResult
            What was found, or why nothing is known.
        """
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
        Takes a topic and a message; called in the order of the frames.
    look : callable, optional
        Takes each message that was published, with its frame, for people to look at.
    config : StreamConfig, optional
        What the stream chooses of the model's labels and scores; its labels are the model's, checked before.
    """

    def __init__(
        self,
        stream: str,
        model: str,
        fair_queue: FairQueue[FrameJob],
        when_behind: WhenBehind,
        publish: Publish,
        look: Look | None = None,
        config: StreamConfig | None = None,
    ) -> None:
        self.stream = stream
        self._config = config
        self._selection: tuple[LoadedModel, Selection] | None = None
        self._look = look
        self.model = model
        self.queue: StreamQueue[FrameJob] = StreamQueue(fair_queue, when_behind)
        self._publish = functools.partial(publish, messages.detections_topic(stream, model))

    def selection(self, served: LoadedModel) -> Selection:
        """Return what is published of a model's results; the same model is asked only once."""
        if self._selection is None or self._selection[0] is not served:
            self._selection = (served, served.select(self._config))
        return self._selection[1]

    def finish(
        self, queued: QueuedItem[FrameJob], served: LoadedModel, queue_ms: float, outcome: Result | NoResult
    ) -> None:
        """Publish the result of a frame; `ResultSink.finish` has the parameters."""
        message = send_message(self._publish, self.stream, queued, served, queue_ms, outcome)
        if self._look is not None and message is not None:
            try:
                self._look(message, queued.item.captured.frame)
            except Exception:  # a page must not end the model's service
                log.exception("stream %s: frame %d cannot be looked at", self.stream, queued.item.index)
        self.queue.finish()


def send_message(
    send: Callable[[messages.Detections], None],
    stream: str,
    queued: QueuedItem[FrameJob],
    served: LoadedModel,
    queue_ms: float,
    outcome: Result | NoResult,
) -> messages.Detections | None:
    """Make the message of a frame, send and return it. If that fails, send an error in its place.

    A frame without a message would be missed for good: subscribers and callers wait for each one.
    """
    try:
        message = make_message(stream, queued, served, queue_ms, outcome)
        send(message)
        return message
    except Exception as error:
        log.exception("stream %s: frame %d could not be sent", queued.item.lane.stream, queued.item.index)
        reason = f"its message could not be made or sent: {type(error).__name__}: {error}"
        with contextlib.suppress(Exception):  # then sending itself fails, which is logged above
            send(make_message(stream, queued, served, queue_ms, NoResult("error", reason)))
        return None


def make_message(
    stream: str,
    queued: QueuedItem[FrameJob],
    served: LoadedModel,
    queue_ms: float,
    outcome: Result | NoResult,
) -> messages.Detections:
    """Make the message of a frame; `ResultSink.finish` has the parameters."""
    captured = queued.item.captured
    width, height = captured.size
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
        thresholds=queued.item.lane.selection(served).used,
        **(_found(outcome.found, served) if isinstance(outcome, Result) else {}),
    )


def _found(found: Detections | Classes, served: LoadedModel) -> dict[str, Any]:
    """Return the fields of a message that hold what was found."""
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
