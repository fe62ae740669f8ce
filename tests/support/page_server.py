"""The page over real HTTP, with streams and frames that a test makes up."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from qzd_client import messages
from qzd_client.requests import ModelStatus, Status, StreamRates, StreamStatus
from qzd_daemon.monitoring.history import History
from qzd_daemon.monitoring.http import Http
from qzd_daemon.monitoring.page import Page
from qzd_daemon.monitoring.view import View

__all__ = ["MODEL", "PageServer", "detections"]

MODEL = messages.ModelInfo("ssd", "3", "sha256:0123456789abcdef", "int8", "CPU")


def detections(stream: str = "gate", *boxes: messages.Box, **fields: Any) -> messages.Detections:
    """Return a result; `ok` if nothing else is said."""
    given: dict[str, Any] = {
        "stream": stream, "frame": 0, "captured_ns": time.time_ns(), "width": 640, "height": 360,
        "outcome": "ok", "model": MODEL, "timing_ms": messages.StageTimes(0, 0, 0, 0),
        "thresholds": messages.UsedThresholds(0.5, 0.5), "detections": list(boxes), **fields,
    }  # fmt: skip
    return messages.Detections(**given)


class PageServer:
    """A page that shows what `say` was given.

    Parameters
    ----------
    streams : str
        Their names.
    options
        Those of `Http`.
    """

    def __init__(self, *streams: str, **options: Any) -> None:
        self.view, self.history = View(), History()
        self.problems: list[str] = []
        self.log: list[str] = ["2026-12-01 00:00:00 INFO    READY"]
        self._streams = streams
        page = Page(self.view, self.history, self.status, self._accuracy, lambda: self.log)
        self.http = Http("127.0.0.1:0", CollectorRegistry(), list, list, page.answer, **options)
        self.address = self.http.address
        self.http.start()

    def say(self, message: messages.Detections, grey: int = 128) -> None:
        """Let a frame of this colour have been answered."""
        self.history.observe(message)
        self.view.take(message, np.full((message.height, message.width, 3), grey, np.uint8))

    def status(self) -> Status:
        """Return the status, as far as the page shows it."""
        rates = StreamRates(
            fps=25, latency_p50_ms=21.5, latency_p99_ms=40, dropped=0.1, last_frame_ns=time.time_ns()
        )
        streams = [
            StreamStatus(
                name=name, source="rtsp://camera/1", models=["ssd"], when_behind="drop", state="running",
                reason=None, frames=100, damaged=0, rates=rates,
            )
            for name in self._streams
        ]  # fmt: skip
        model = ModelStatus(
            model=MODEL, bundle="/var/lib/qzd/models/ssd/3", device="CPU", requests=2, task="detection",
            input=(300, 300), labels=90, thresholds=messages.UsedThresholds(0.5, 0.5), directory="3",
        )  # fmt: skip
        return Status(
            version="1.0", epoch="e", pid=1, started_ns=0, endpoints={}, connections={}, refused={},
            published={}, subscriptions=0, streams=streams, models=[model], problems=self.problems,
        )  # fmt: skip

    def _accuracy(self) -> dict[str, list[dict[str, Any]]]:
        return {"ssd": [{"images": 202, "metrics": {"mAP": 0.2179}, "baseline": {"mAP": 0.2216}}]}

    def close(self) -> None:
        """Stop to answer."""
        self.http.close()
