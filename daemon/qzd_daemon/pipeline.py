"""A lane: one stream through one model, from a captured frame to its message, in frame order.

Requests end in any order; a lane holds back what came early, so that every frame is published once and in
its turn. What may live here: order and the making of messages. Who runs what is in `scheduler`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from qzd_daemon import wire
from qzd_daemon.mailbox import Inbox, Mail, Mailbox
from qzd_daemon.models import Served
from qzd_daemon.sources import Captured
from qzd_ext.detections import Classes, Detections, FloatArray
from qzd_ext.detector import Result

__all__ = ["Lane", "Unknown", "Way", "Work", "make_message"]

Publish = Callable[[str, wire.Message], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A frame of a stream on its way through one model.

    Attributes
    ----------
    lane : Way
    index : int
        Counts what the source delivered, from 0.
    captured : Captured
    """

    lane: Way
    index: int
    captured: Captured


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing is known of a frame, and why."""

    outcome: Literal["skipped", "stale", "error"]
    reason: str


class Way(Protocol):
    """Where a frame comes from, and where what became of it goes: the `Lane` of a stream, or a `Desk`."""

    @property
    def stream(self) -> str:
        """Its name, for the log."""
        ...

    def finish(self, mail: Mail[Work], served: Served, queue_ms: float, outcome: Result | Unknown) -> None:
        """Hand on what became of it."""
        ...


class Lane:
    """One stream through one model.

    Parameters
    ----------
    stream, model : str
        Their names.
    inbox : Inbox
        The model's.
    when_behind : "drop" or "wait"
    publish : callable
        Takes a topic and a message; called in frame order, from any thread.
    """

    def __init__(
        self,
        stream: str,
        model: str,
        inbox: Inbox[Work],
        when_behind: Literal["drop", "wait"],
        publish: Publish,
    ) -> None:
        self.stream = stream
        self.model = model
        self.mailbox: Mailbox[Work] = Mailbox(inbox, when_behind)
        self._topic = wire.detections_topic(stream, model)
        self._publish = publish
        self._lock = threading.Lock()
        self._published = 0
        self._early: dict[int, wire.Detections] = {}

    @property
    def idle(self) -> bool:
        """Whether everything that was put into the mailbox has been published."""
        return self.mailbox.is_done(self._published)

    def finish(self, mail: Mail[Work], served: Served, queue_ms: float, outcome: Result | Unknown) -> None:
        """Publish what became of a frame, as soon as all before it are published.

        Parameters
        ----------
        mail : Mail
            As it was taken out of the lane's mailbox.
        served : Served
            The model that answered.
        queue_ms : float
            How long the frame waited for an idle request.
        outcome : Result or Unknown
            What was found, or why nothing is known.
        """
        message = make_message(self.stream, mail, served, queue_ms, outcome)
        with self._lock:
            self._early[mail.order] = message
            while (ready := self._early.pop(self._published, None)) is not None:
                try:
                    self._publish(self._topic, ready)
                except Exception:  # one that cannot be published must not hold back all that follow
                    log.exception("stream %s: frame %d could not be published", self.stream, ready.frame)
                self._published += 1


def make_message(
    stream: str, mail: Mail[Work], served: Served, queue_ms: float, outcome: Result | Unknown
) -> wire.Detections:
    """What became of a frame, as it is published; the parameters are those of `Lane.finish`."""
    captured = mail.item.captured
    height, width = captured.frame.shape[:2] if captured.frame is not None else (0, 0)
    stages = (0.0, 0.0, 0.0)
    if isinstance(outcome, Result):
        timing = outcome.timing
        stages = (timing.preprocess, timing.inference, timing.postprocess)
    return wire.Detections(
        stream=stream,
        frame=mail.item.index,
        captured_ns=captured.captured_ns,
        pts_s=captured.pts_s,
        file=captured.file,
        width=width,
        height=height,
        outcome=outcome.outcome if isinstance(outcome, Unknown) else "ok",
        reason=outcome.reason if isinstance(outcome, Unknown) else None,
        dropped_before=mail.dropped_before,
        model=served.info,
        timing_ms=wire.StageTimes(*(round(ms, 3) for ms in (queue_ms, *stages))),
        thresholds=served.thresholds,
        **(_found(outcome.found, served) if isinstance(outcome, Result) else {}),
    )


def _found(found: Detections | Classes, served: Served) -> dict[str, Any]:
    """The fields of a message that hold what was found."""
    label = served.detector.bundle.manifest.labels.name
    classes = found.class_ids.tolist()
    scores = _rounded(found.scores, 5)
    if isinstance(found, Classes):
        return {"classes": [wire.ClassScore(c, label(c), s) for c, s in zip(classes, scores, strict=True)]}
    boxes = _rounded(found.boxes, 3)
    listed = [wire.Box(c, label(c), s, tuple(b)) for c, s, b in zip(classes, scores, boxes, strict=True)]
    return {"detections": listed, "truncated": found.truncated}


def _rounded(values: FloatArray, decimals: int) -> list[Any]:
    return values.astype(np.float64).round(decimals).tolist()  # type: ignore[no-any-return]
