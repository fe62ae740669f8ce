"""Define the metrics for Prometheus, with their labels, in base units.

Counters and histograms follow the messages that were sent. Gauges are read when they are scraped.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.metrics import MetricWrapperBase

from qzd_client import messages
from qzd_ext import __version__

__all__ = ["Metrics", "Reading", "Snapshot"]

ANSWERED = ("ok", "damaged")  # outcomes of frames that a model has looked at
STAGES = ("queue", "preprocess", "inference", "postprocess")
STAGE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
LATENCY_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Reading = Mapping[tuple[str, ...], float]
"""Values by label."""

Snapshot = Callable[[], Mapping[str, Reading]]
"""Returns the current value of each metric in `READ`, by name."""

READ: dict[str, tuple[str, tuple[str, ...]]] = {
    "qzd_queue_depth": ("Frames of a stream that wait for its models.", ("stream",)),
    "qzd_frames_left_out_total": (
        "Frames that max_fps left out; each also counts as dropped for every model of the stream.",
        ("stream",),
    ),
    "qzd_stream_damaged_frames_total": ("Pictures of a source that were not whole.", ("stream",)),
    "qzd_stream_undecodable_frames_total": ("Frames of a source that gave no picture.", ("stream",)),
    "qzd_stream_absent_frames_total": (
        "Frames that never came: gaps in timestamps that were even before.",
        ("stream",),
    ),
    "qzd_stream_last_whole_timestamp_seconds": (
        "When the last whole picture of a source was captured, in Unix time.",
        ("stream",),
    ),
    "qzd_model_info": (
        "1 for each model that serves.",
        ("model", "version", "digest", "precision", "device"),
    ),
    "qzd_selftest_pass": (
        "Whether the model's last self-test on this device passed.",
        ("model", "device"),
    ),
    "qzd_selftest_age_seconds": ("Time since the model's golden frames were last run.", ("model",)),
    "qzd_model_swaps_total": (
        "Changes of a serving bundle: swapped, rolled_back, or refused.",
        ("result",),
    ),
    "qzd_subscribers": ("Open connections to the data socket.", ()),
    "qzd_connections_refused_total": (
        "Connections that were refused: no key, a wrong key, or too many.",
        ("socket", "reason"),
    ),
    "qzd_calls_refused_total": (
        "Messages to the control, inference and ingest sockets answered with an error.",
        ("socket", "code"),
    ),
}


class Metrics:
    """Hold all metrics of one daemon.

    Parameters
    ----------
    registry : CollectorRegistry
        Registers them; a duplicate name is an error.
    snapshot : callable
        Reads the metrics of `READ`.

    Attributes
    ----------
    frames : int
        Frames answered since the start, whatever their outcome.
    faults : int
        Frames of these whose outcome was not `ok`.
    """

    def __init__(self, registry: CollectorRegistry, snapshot: Snapshot) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series per counter that says only when qzd was started
        self.frames = self.faults = 0
        self._frames = Counter(
            "qzd_frames", "Frames answered, by outcome.", ("stream", "outcome"), registry=registry
        )
        self._dropped = Counter(
            "qzd_frames_dropped", "Frames that no model looked at.", ("stream", "model"), registry=registry
        )
        self._stages = Histogram(
            "qzd_stage_duration_seconds",
            "Time of a frame in each stage: queue, preprocess, inference, postprocess.",
            ("stage", "model"),
            buckets=STAGE_BUCKETS,
            registry=registry,
        )
        self._latency = Histogram(
            "qzd_end_to_end_latency_seconds",
            "Time from the capture of a frame until its message is sent.",
            ("stream",),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._detections = Counter(
            "qzd_detections", "Boxes or classes that were found.", ("stream", "label"), registry=registry
        )
        self._last_inference = Gauge(
            "qzd_last_inference_timestamp_seconds",
            "When a model last answered a frame, in Unix time.",
            ("model",),
            registry=registry,
        )
        self._stream_up = Gauge(
            "qzd_stream_up",
            "1 while a source delivers, 0 while it is down; absent once it has ended.",
            ("stream",),
            registry=registry,
        )
        self._stream_changes = Counter(
            "qzd_stream_changes", "Changes of a source's state.", ("stream", "state"), registry=registry
        )
        self._reloads = Counter(
            "qzd_reloads", "Reloads of the configuration.", ("result",), registry=registry
        )
        for result in ("applied", "refused"):
            self._reloads.labels(result)
        Info("qzd_build", "The daemon's version.", registry=registry).info({"version": __version__})
        ProcessCollector(registry=registry)
        registry.register(_Reader(snapshot))
        self._series: dict[tuple[object, ...], Any] = {}

    def observe(self, message: messages.Message) -> None:
        """Count a message that was sent; only the publisher calls it."""
        match message:
            case messages.Detections():
                self._observe_frame(message)
            case messages.StreamState():
                self._observe_stream(message)
            case messages.ModelState(state="removed"):
                self._forget((self._stages, self._last_inference, self._dropped), model=message.model.name)

    def reloaded(self, *, applied: bool) -> None:
        """Count a reload."""
        self._reloads.labels("applied" if applied else "refused").inc()

    def _observe_frame(self, message: messages.Detections) -> None:
        self.frames += 1
        stream, model, of = message.stream, message.model.name, self._of
        of(self._frames, stream, message.outcome).inc()
        taken_ns = max(0, message.published_ns - message.captured_ns)  # the clock may have been set back
        of(self._latency, stream).observe(taken_ns / 1e9)
        if message.dropped_before:
            of(self._dropped, stream, model).inc(message.dropped_before)
        self.faults += message.outcome != "ok"
        if message.outcome not in ANSWERED:
            return
        of(self._last_inference, model).set(message.published_ns / 1e9)
        for stage in STAGES:
            of(self._stages, stage, model).observe(getattr(message.timing_ms, stage) / 1e3)
        if message.outcome != "ok":  # what was found may not be there
            return
        found = collections.Counter(f.label for f in message.detections or message.classes or ())
        for label, count in found.items():
            of(self._detections, stream, label).inc(count)

    def _observe_stream(self, message: messages.StreamState) -> None:
        name, state = message.stream, message.state
        if state == "removed":
            self._forget(self._of_streams(), stream=name)
            return
        self._stream_changes.labels(name, state).inc()
        if state == "ended":
            self._forget((self._stream_up,), stream=name)
        else:
            self._stream_up.labels(name).set(state == "running")

    def _of(self, metric: MetricWrapperBase, *labels: str) -> Any:
        """Return a metric's series, cached: prometheus-client takes longer to find it than to count."""
        key = (metric, *labels)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = metric.labels(*labels)
        return series

    def _forget(self, metrics: Iterable[MetricWrapperBase], **labels: str) -> None:
        self._series.clear()
        for metric in metrics:
            metric.remove_by_labels(labels)

    def _of_streams(self) -> Iterable[Counter | Gauge | Histogram]:
        yield from (self._frames, self._dropped, self._latency, self._detections)
        yield from (self._stream_up, self._stream_changes)


class _Reader:
    """Collect the metrics that are read when they are scraped."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        readings = self._snapshot()
        for name, (text, labels) in READ.items():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(name, text, labels=labels)
            for values, value in readings[name].items():
                family.add_metric(values, value)
            yield family
