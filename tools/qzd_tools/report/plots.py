"""Results as pictures: SVG that stands in the page."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qzd_tools.report.results import Results, Variant

__all__ = ["Plot", "all_plots"]

COLOURS = {"fp32": "#444444", "fp16": "#0072b2", "int8-weights": "#009e73", "int8": "#d55e00"}
"""Told apart also by those who see few colours (Okabe and Ito, 2008)."""
IN_HALF_PRECISION = "#cc79a7"
"""A float model that computes in 16 bits."""
STAGES = {"preprocess": "#56b4e9", "inference": "#444444", "postprocess": "#e69f00"}
STYLE: dict[Any, Any] = {
    "font.size": 10, "svg.fonttype": "none", "text.parse_math": False, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.alpha": 0.25,
    "legend.frameon": False, "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"],
}  # fmt: skip
WIDTH = 4.8
"""Inches: what a phone shows without shrinking the letters much."""
SHOWN_CLASSES = 10
ABOVE: dict[str, Any] = {"fontsize": 8.5, "loc": "lower center", "bbox_to_anchor": (0.4, 1.0)}
"""Where a legend covers no point."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure and what it shows; `svg` is an element for the page."""

    title: str
    caption: str
    svg: str


def all_plots(results: Results) -> list[Plot]:
    """Every figure that there are measurements for."""
    drawers: tuple[tuple[str, str, Callable[[Results], Figure | None]], ...] = (
        ("Accuracy against latency", "Up and to the left is better.", _accuracy_latency),
        ("Candidates", "What INT8 was chosen from; up and to the right is better.", _candidates),
        ("Precision and recall", "At IoU 0.5, the mean of the classes; COCOeval's own.", _precision_recall),
        ("Class by class", "Change from the original; classes that lost and gained most.", _class_changes),
        ("Latency of a frame", "How often a frame took how long.", _latencies),
        ("Where the time goes", "Mean of each stage of a frame, all requests busy.", _stages),
    )
    plots = []
    with mpl.rc_context(STYLE):
        for title, caption, draw in drawers:
            figure = draw(results)
            if figure is not None:
                plots.append(Plot(title, caption, _svg(figure, title)))
    return plots


def _svg(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": title}), warnings.catch_warnings():  # ids differ between figures
        warnings.filterwarnings("ignore", "Glyph")  # the reader's browser has what this font lacks
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def _axes(height: float = 3.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _colour(variant: Variant) -> str:
    if variant.precision == "fp32" and variant.inference_precision != "f32":
        return IN_HALF_PRECISION
    return COLOURS[variant.precision]


def _candidates(results: Results) -> Figure | None:
    found = [(one, one.agreement) for one in results.candidates if one.agreement is not None]
    if not found:
        return None
    figure, axes = _axes()
    for one, agreement in found:
        colour = COLOURS["int8"] if one.chosen else COLOURS["fp32"]
        axes.plot(one.speed, agreement, "D" if one.chosen else "o", ms=8, color=colour)
        label = one.name + (", chosen" if one.chosen else "")
        axes.annotate(label, (one.speed, agreement), xytext=(0, 8), textcoords="offset points", ha="center")
    axes.set_xlabel("speed beside the better float precision")
    axes.set_ylabel("agreement with the float model")
    axes.margins(x=0.45, y=0.25)
    return figure


def _main_name(variants: list[Variant]) -> str:
    return "mAP" if variants[0].validation and "map" in variants[0].validation.metrics else "top-1"


def _accuracy_latency(results: Results) -> Figure | None:
    both = [v for v in results.variants if v.benchmark and v.main is not None]
    if not both:
        return None
    figure, axes = _axes()
    for variant in both:
        assert variant.benchmark is not None
        assert variant.main is not None
        speed = variant.benchmark.inference
        axes.plot(
            speed.p50_ms, variant.main, "o", ms=9, color=_colour(variant), label=variant.title
        )
        axes.hlines(variant.main, speed.p50_ms, speed.p90_ms, color=_colour(variant), alpha=0.5)
    axes.set_xlabel("inference, ms (median; the line ends at p90)")
    axes.set_ylabel(_main_name(both))
    axes.set_xlim(left=0)
    axes.margins(y=0.25)
    axes.legend(ncols=4, columnspacing=1, handletextpad=0.2, **ABOVE)
    return figure


def _precision_recall(results: Results) -> Figure | None:
    known = [(v, v.validation.curve) for v in results.variants if v.validation and v.validation.curve]
    if not known:
        return None
    figure, axes = _axes()
    for variant, curve in known:
        recalls = [i / (len(curve) - 1) for i in range(len(curve))]
        axes.plot(recalls, curve, color=_colour(variant), lw=1.5, label=variant.title)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1))
    axes.legend(fontsize=8.5)
    return figure


def _class_changes(results: Results) -> Figure | None:
    after = results.smallest
    if after is None or results.original.validation is None or after.validation is None:
        return None
    key = "ap" if "map" in after.validation.metrics else "top1"
    now = {one.label: one.metrics.get(key) for one in after.validation.classes}
    changes = []
    for one in results.original.validation.classes:
        was, value = one.metrics.get(key), now.get(one.label)
        if was is not None and value is not None and value != was:
            changes.append((value - was, f"{one.label} ({one.instances})"))
    changes.sort()
    if len(changes) > 2 * SHOWN_CLASSES:
        changes = changes[:SHOWN_CLASSES] + changes[-SHOWN_CLASSES:]
    if not changes:
        return None
    figure, axes = _axes(0.9 + 0.21 * len(changes))
    values = [change for change, _ in changes]
    colours = [COLOURS["int8"] if value < 0 else COLOURS["int8-weights"] for value in values]
    axes.barh(range(len(values)), values, color=colours)
    axes.set_yticks(range(len(values)), [label for _, label in changes], fontsize=8.5)
    axes.invert_yaxis()
    axes.axvline(0, color="#444444", lw=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(f"{key.upper()} of {after.title} less {results.original.title}; (instances)", fontsize=9)
    return figure


def _latencies(results: Results) -> Figure | None:
    measured = [(v, v.benchmark.whole) for v in results.variants if v.benchmark]
    if not measured:
        return None
    figure, axes = _axes()
    for variant, speed in measured:
        edges = [0.0, *(edge for edge, _ in speed.histogram)]
        shares = [100 * count / speed.samples for _, count in speed.histogram]
        axes.stairs(shares, edges, color=_colour(variant), lw=1.5, label=variant.title)
        axes.axvline(speed.p50_ms, color=_colour(variant), lw=0.8, ls=":")
    axes.set(xlabel="ms (dotted: median)", ylabel="frames, %", xlim=(0, None), ylim=(0, None))
    axes.legend(fontsize=8.5)
    return figure


def _stages(results: Results) -> Figure | None:
    measured = [(v, v.benchmark.stages_ms) for v in results.variants if v.benchmark]
    if not measured:
        return None
    figure, axes = _axes(1.1 + 0.42 * len(measured))
    rows = range(len(measured))
    starts = [0.0] * len(measured)
    for stage, colour in STAGES.items():
        widths = [stages[stage] for _, stages in measured]
        axes.barh(rows, widths, left=starts, color=colour, height=0.6, label=stage)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    axes.set_yticks(rows, [variant.title for variant, _ in measured])
    axes.invert_yaxis()
    axes.set_xlabel("ms")
    axes.legend(ncols=3, **ABOVE)
    return figure
