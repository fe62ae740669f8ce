"""Results as tables of text, the same for HTML and Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qzd_tools.benchmark.run import Benchmark
from qzd_tools.report.results import Results, Variant

__all__ = ["Table", "all_tables", "summary", "verdict"]

NONE = "-"
PERCENTILES = ("p50", "p90", "p99")
TOLERATED = 0.01
"""What a model to serve may lose of the main figure."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its first column names the rows."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    folded: bool = False
    """Long: shown when it is asked for."""


def all_tables(results: Results) -> list[Table]:
    """Every table that there are figures for, most wanted first."""
    makers = (
        *(_accuracy_and_time, _quantizations, _candidates, _speed),
        *(_all_metrics, _classes, _bundles, _machine),
    )
    return [table for maker in makers if (table := maker(results)) is not None]


def summary(results: Results) -> str:
    """Say what was won and what it cost, in a sentence; empty if there is nothing to compare."""
    before, after = results.original, results.smallest
    if after is None:
        return ""
    parts = []
    if before.main is not None and after.main is not None:
        name = _names(before)[0]
        parts.append(f"{name} {after.main:.4f} against {before.main:.4f} ({after.main - before.main:+.4f})")
    if before.benchmark and after.benchmark:
        ratio = after.benchmark.inference.throughput / before.benchmark.inference.throughput
        parts.append(f"{ratio:.2f} times the inferences per second")
    if before.bytes and after.bytes:
        parts.append(f"{after.bytes / before.bytes:.2f} of the size")
    return f"{after.title} against {before.title}: " + ", ".join(parts) + "." if parts else ""


def verdict(results: Results) -> str:
    """Say which variant to serve on the machine that was measured; empty if there is no choice."""
    original = results.original
    measured = [v for v in results.variants if v.benchmark is not None and v.main is not None]
    if original not in measured or len(measured) < 2:
        return ""
    good = [v for v in measured if (v.main or 0.0) >= (original.main or 0.0) - TOLERATED]
    best = max(good, key=_rate)
    name, ratio = _names(original)[0], _rate(best) / _rate(original)
    text = f"Serve {best.title} on this machine: the fastest within {TOLERATED:g} of {original.title}'s "
    text += f"{name}, {ratio:.2f} times its inferences per second."
    if best.inference_precision != "f32":
        text += f' Set precision = "{best.inference_precision}" for the model in qzd.toml.'
    return text


def _rate(variant: Variant) -> float:
    return variant.benchmark.inference.throughput if variant.benchmark else 0.0


def _names(variant: Variant) -> tuple[str, str]:
    """Name the two main figures."""
    detects = variant.validation is None or "map" in variant.validation.metrics
    return ("mAP", "AP50") if detects else ("top-1", "top-5")


def _metric(variant: Variant, *keys: str) -> str:
    if variant.validation is None:
        return NONE
    value = next((v for k in keys if (v := variant.validation.metrics.get(k)) is not None), None)
    return NONE if value is None else f"{value:.4f}"


def _image_ms(variant: Variant) -> str:
    return f"{1000 / variant.benchmark.inference.throughput:.2f}" if variant.benchmark else NONE


def _size(variant: Variant) -> str:
    return f"{variant.bytes / 1e6:.2f}" if variant.bytes else NONE


def _accuracy_and_time(results: Results) -> Table | None:
    """Put FP32 beside INT8: two figures of accuracy, and the time per image."""
    first, second = next((_names(v) for v in results.variants if v.validation), ("mAP", "AP50"))
    rows = [
        (v.title, _metric(v, "map", "top1"), _metric(v, "map50", "top5"), _change(v, results), _image_ms(v))
        for v in results.variants
    ]
    images = next((v.validation.images for v in results.variants if v.validation), 0)
    note = f"Accuracy on {images} images. " if images else ""
    note += "Milliseconds per image: only inference, all requests busy."
    header = ("", first, second, f"{first} change", "ms an image")
    return Table("Accuracy and time", header, tuple(rows), note)


def _change(variant: Variant, results: Results) -> str:
    if variant is results.original or variant.main is None or results.original.main is None:
        return NONE
    return f"{variant.main - results.original.main:+.4f}"


def _quantizations(results: Results) -> Table | None:
    """Say what each kind of quantization takes and gives."""
    original = results.original
    variants = [original, *(v for v in results.variants if v.digest != original.digest)]
    if len(variants) < 2:
        return None
    name = next((_names(v)[0] for v in variants if v.validation), "mAP")
    rows: list[tuple[str, Callable[[Variant], str]]] = [
        ("Time to quantize, s", lambda v: f"{v.quantized.seconds:.2f}" if v.quantized else NONE),
        ("Size, MB", _size),
        (f"Accuracy, {name}", lambda v: _metric(v, "map", "top1")),
        ("Inference time, ms", _image_ms),
    ]
    titles = ["Original " + v.title if v is original else v.title for v in variants]
    filled = tuple((label, *map(cell, variants)) for label, cell in rows)
    return Table("What each kind of quantization takes and gives", ("", *titles), filled)


def _candidates(results: Results) -> Table | None:
    """Make the table of what INT8 was chosen from."""
    rows = tuple(
        (
            one.name,
            NONE if one.agreement is None else f"{one.agreement:.4f}",
            f"{one.speed:.2f}",
            "chosen" if one.chosen else "",
        )
        for one in results.candidates
    )
    note = "Agreement with the float model on images that were not calibrated with; speed beside float."
    return Table("Candidates", ("", "agreement", "speed", ""), rows, note) if rows else None


def _speed(results: Results) -> Table | None:
    measured = [(v, v.benchmark) for v in results.variants if v.benchmark]
    if not measured:
        return None
    cells: list[tuple[str, Callable[[Benchmark], str]]] = [
        ("inferences per second", lambda b: f"{b.inference.throughput:.1f}"),
        ("frames per second", lambda b: f"{b.whole.throughput:.1f}"),
        ("benchmark_app's inferences per second", lambda b: f"{b.app.throughput:.1f}" if b.app else NONE),
        *((f"inference {p}, ms", _latency("inference", p)) for p in PERCENTILES),
        *((f"frame {p}, ms", _latency("whole", p)) for p in PERCENTILES),
        ("load, ms", lambda b: f"{b.footprint.cold_ms:.0f}"),
        ("load from cache, ms", lambda b: f"{b.footprint.cached_ms:.0f}"),
        ("peak memory, MB", lambda b: f"{b.footprint.peak_mb:.0f}"),
    ]
    rows = tuple((label, *(cell(one) for _, one in measured)) for label, cell in cells)
    first = measured[0][1]
    threads = f", {first.threads} threads" if first.threads else ""
    note = (
        f"On {', '.join(first.devices)}, {first.requests} requests{threads}, {first.hint}; {results.frames}. "
        "A frame: preprocessing, inference and decoding. Memory of a process that serves only this model."
    )
    return Table("Speed", ("", *(variant.title for variant, _ in measured)), rows, note)


def _latency(way: str, percentile: str) -> Callable[[Benchmark], str]:
    return lambda one: f"{getattr(getattr(one, way), percentile + '_ms'):.2f}"


def _all_metrics(results: Results) -> Table | None:
    measured = [v for v in results.variants if v.validation]
    if not measured or measured[0].validation is None:
        return None
    keys = list(measured[0].validation.metrics)
    rows = tuple((key, *(_metric(v, key) for v in measured)) for key in keys)
    limits, note = measured[0].validation.thresholds, measured[0].validation.note
    if "map" in keys:
        note = (
            f"As pycocotools computes them. Confidence {limits.confidence:g}, NMS by {limits.nms} "
            f"{limits.iou:g}, at most {limits.max_detections} boxes per image. {note}"
        )
    return Table("All figures of accuracy", ("", *(v.title for v in measured)), rows, note.strip())


def _classes(results: Results) -> Table | None:
    smallest = results.smallest
    before, after = results.original.validation, smallest.validation if smallest is not None else None
    if smallest is None or before is None or after is None:
        return None
    key = "ap" if "map" in before.metrics else "top1"
    now = {one.label: one.metrics.get(key) for one in after.classes}
    rows = []
    for one in before.classes:
        was, value = one.metrics.get(key), now.get(one.label)
        if was is not None and value is not None:
            rows.append((value - was, (one.label, str(one.instances), f"{was:.4f}", f"{value:.4f}")))
    rows.sort(key=lambda row: row[0])
    titles = ("", "instances", results.original.title, smallest.title, "change")
    filled = tuple((*cells, f"{change:+.4f}") for change, cells in rows)
    return Table("Class by class", titles, filled, f"{key.upper()}, those that lost most first.", folded=True)


def _bundles(results: Results) -> Table:
    rows = tuple((v.title, v.name, v.digest, v.path) for v in results.variants)
    return Table("Bundles", ("", "name", "digest", "where it was"), rows)


def _machine(results: Results) -> Table | None:
    here = results.machine
    if here is None:
        return None
    rows: Sequence[tuple[str, str]] = (
        ("processor", f"{here.cpu}, {here.cores} cores of which {here.usable} were used"),
        ("instruction sets", ", ".join(here.instruction_sets) or NONE),
        ("memory", f"{here.memory_gb} GB"),
        ("system", here.system),
        *((name, version) for name, version in here.versions.items()),
    )
    return Table("Machine and versions", ("", ""), tuple(rows))
