"""Messages go in, the text that Prometheus reads comes out."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from qzd_client import messages
from qzd_daemon.monitoring.metrics import READ, Metrics, Reading

MODEL = messages.ModelInfo("ssd", "3", "sha256:0", "int8", "CPU")
SECOND = 10**9


def frame(stream: str = "gate", **values: Any) -> messages.Detections:
    values = {
        "captured_ns": 100 * SECOND,
        "published_ns": 102 * SECOND,
        "outcome": "ok",
        "detections": [messages.Box(0, "person", 0.9, (0, 0, 1, 1))],
        **values,
    }
    return messages.Detections(
        stream=stream,
        frame=0,
        width=64,
        height=64,
        model=MODEL,
        timing_ms=messages.StageTimes(1, 2, 30, 4),
        thresholds=messages.UsedThresholds(0.5, 0.5),
        **values,
    )


class Scrape:
    """A registry, and what is read from it."""

    def __init__(self) -> None:
        self.readings: dict[str, Reading] = {name: {} for name in READ}
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, lambda: self.readings)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


@pytest.fixture
def scrape() -> Scrape:
    return Scrape()


def test_observe_a_frame_counts_it_with_its_stages_and_boxes(scrape: Scrape) -> None:
    scrape.metrics.observe(frame(dropped_before=3))
    assert scrape.value("qzd_frames_total", stream="gate", outcome="ok") == 1
    assert scrape.value("qzd_frames_dropped_total", stream="gate", model="ssd") == 3
    assert scrape.value("qzd_detections_total", stream="gate", label="person") == 1
    assert scrape.value("qzd_stage_duration_seconds_sum", stage="inference", model="ssd") == 0.03
    assert scrape.value("qzd_end_to_end_latency_seconds_sum", stream="gate") == 2
    assert scrape.value("qzd_last_inference_timestamp_seconds", model="ssd") == 102
    assert (scrape.metrics.frames, scrape.metrics.faults) == (1, 0)


def test_observe_a_frame_when_the_clock_was_set_back_takes_nothing_from_the_latency(scrape: Scrape) -> None:
    scrape.metrics.observe(frame())
    scrape.metrics.observe(frame(published_ns=0))
    assert scrape.value("qzd_end_to_end_latency_seconds_sum", stream="gate") == 2


def test_observe_a_fault_says_nothing_about_the_model(scrape: Scrape) -> None:
    scrape.metrics.observe(frame(outcome="error", reason="damaged"))
    assert scrape.value("qzd_frames_total", stream="gate", outcome="error") == 1
    assert scrape.value("qzd_last_inference_timestamp_seconds", model="ssd") is None
    assert scrape.value("qzd_stage_duration_seconds_count", stage="inference", model="ssd") is None
    assert (scrape.metrics.frames, scrape.metrics.faults) == (1, 1)


@pytest.mark.parametrize(
    ("state", "up"),
    [("connecting", 0), ("running", 1), ("reconnecting", 0), ("failed", 0), ("ended", None)],
)
def test_observe_a_source_says_whether_it_is_up(
    scrape: Scrape, state: messages.StreamStateName, up: float | None
) -> None:
    scrape.metrics.observe(messages.StreamState(stream="gate", state="running"))
    scrape.metrics.observe(messages.StreamState(stream="gate", state=state))
    assert scrape.value("qzd_stream_up", stream="gate") == up
    assert scrape.value("qzd_stream_changes_total", stream="gate", state=state) in (1, 2)


def test_observe_a_removed_stream_forgets_it_and_no_other(scrape: Scrape) -> None:
    for name in ("gate", "yard"):
        scrape.metrics.observe(messages.StreamState(stream=name, state="running"))
        scrape.metrics.observe(frame(name, dropped_before=1))
    scrape.metrics.observe(messages.StreamState(stream="gate", state="removed"))
    text = generate_latest(scrape.registry).decode()
    assert 'stream="gate"' not in text
    assert scrape.value("qzd_frames_total", stream="yard", outcome="ok") == 1
    assert scrape.value("qzd_stream_up", stream="yard") == 1


def test_observe_a_removed_model_forgets_it(scrape: Scrape) -> None:
    scrape.metrics.observe(frame())
    scrape.metrics.observe(messages.ModelState(model=MODEL, state="removed"))
    assert 'model="ssd"' not in generate_latest(scrape.registry).decode()


def test_scrape_reads_what_is_true_now(scrape: Scrape) -> None:
    scrape.readings["qzd_queue_depth"] = {("gate",): 2}
    scrape.readings["qzd_model_swaps_total"] = {("refused",): 1}
    assert scrape.value("qzd_queue_depth", stream="gate") == 2
    assert scrape.value("qzd_model_swaps_total", result="refused") == 1
    scrape.readings["qzd_queue_depth"] = {}
    assert scrape.value("qzd_queue_depth", stream="gate") is None


def test_scrape_has_the_process_and_the_version(scrape: Scrape) -> None:
    text = generate_latest(scrape.registry).decode()
    assert "process_resident_memory_bytes" in text
    assert 'qzd_build_info{version="' in text


def test_register_twice_in_one_registry_is_an_error(scrape: Scrape) -> None:
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Metrics(scrape.registry, lambda: scrape.readings)


def test_count_a_reload_by_its_result(scrape: Scrape) -> None:
    scrape.metrics.reloaded(applied=False)
    assert scrape.value("qzd_reloads_total", result="refused") == 1
    assert scrape.value("qzd_reloads_total", result="applied") == 0


def test_scrape_has_no_series_that_only_says_when_the_daemon_started(scrape: Scrape) -> None:
    scrape.metrics.observe(frame())
    assert "_created" not in generate_latest(scrape.registry).decode()
    text = openmetrics(scrape.registry).decode()  # type: ignore[no-untyped-call]  # its return type is not annotated
    assert "_created" not in text
