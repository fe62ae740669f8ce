"""`qzd-tools benchmark`: how fast bundles run, side by side."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qzd_ext.options import Finite
from qzd_tools.commands import BUNDLE, DIRECTORY, PRECISIONS, json_option, say, write_json

if TYPE_CHECKING:
    from qzd_tools.benchmark.run import Benchmark

__all__ = ["command"]


@click.command()
@click.argument("bundle", nargs=-1, required=True, type=BUNDLE)
@click.option("--hint", type=click.Choice(["throughput", "latency"]), default="throughput", show_default=True)
@click.option("--seconds", type=Finite(0.2), default=10.0, show_default=True,
              help="For each bundle, and each way of running.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Turns it is cut into.")
@click.option("--images", type=DIRECTORY, help="Frames to run on.  [default: the golden frames, or noise]")
@click.option("--device", default="CPU", show_default=True, help="As OpenVINO names it.")
@click.option("--precision", "precisions", multiple=True, type=PRECISIONS,
              help="What to compute in; several take turns.  [default: the bundle's]")
@click.option("--requests", type=click.IntRange(1), help="Under way at once.  [default: the device's choice]")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: all that may be used]")
@click.option("--compare", is_flag=True, help="Run OpenVINO's benchmark_app in turn.")
@json_option
def command(
    bundle: tuple[Path, ...],
    hint: Any,
    seconds: float,
    rounds: int,
    images: Path | None,
    device: str,
    precisions: tuple[Any, ...],
    requests: int | None,
    threads: int | None,
    compare: bool,
    json_file: Path | None,
) -> None:
    """Measure throughput and latency of each BUNDLE, by the engine that the daemon runs.

    The bundles take turns, so that a busy machine is unfair to none. `inference` is only the model,
    `frame` the whole way from a frame to its detections. Load times and memory are those of a new process.
    """
    from qzd_ext import bundle as bundles
    from qzd_ext.runner import RunOptions
    from qzd_tools.benchmark.run import benchmark, frames_from
    from qzd_tools.data.images import list_images
    from qzd_tools.system.machine import this_machine

    named = [bundles.read(path) for path in bundle]
    frames, what = frames_from(list_images(images) if images else [], named[0])
    options = [RunOptions(device, hint, requests, threads, precision=p) for p in precisions or (None,)]
    targets = list(itertools.product(named, options))
    results = benchmark(targets, frames, seconds=seconds, rounds=rounds, compare=compare)
    say(_describe(results, what))
    write_json(json_file, {"machine": this_machine(), "frames": what, "benchmarks": results})


def _describe(results: list[Benchmark], frames: str) -> str:
    """Write the figures as text, one block per bundle."""
    lines = []
    for one in results:
        cost, stages = one.footprint, one.stages_ms
        where = f"{','.join(one.devices)} in {one.inference_precision}, {one.requests} requests"
        if one.threads:
            where += f", {one.threads} threads"
        lines.append(f"{one.bundle['name']} {one.bundle['precision']} on {where}, {one.hint}; {frames}")
        for title, speed in (("inference", one.inference), ("frame", one.whole)):
            lines.append(
                f"  {title:<10} {speed.throughput:8.1f}/s   ms: mean {speed.mean_ms:.2f}"
                f"  p50 {speed.p50_ms:.2f}  p90 {speed.p90_ms:.2f}  p99 {speed.p99_ms:.2f}"
            )
        lines.append("  stages     " + "  ".join(f"{k} {v:.2f} ms" for k, v in stages.items()))
        lines.append(
            f"  load       {cost.cold_ms:.0f} ms, {cost.cached_ms:.0f} ms from cache; memory "
            f"{cost.peak_mb:.0f} MB at most, {cost.before_mb:.0f} MB before; model {one.bytes / 1e6:.2f} MB"
        )
        if one.app is not None:
            ratio = one.inference.throughput / one.app.throughput
            lines.append(
                f"  benchmark_app {one.app.throughput:.1f}/s, median {one.app.median_ms:.2f} ms; "
                f"inference here is {ratio:.2f} of it, a whole frame "
                f"{one.whole.throughput / one.app.throughput:.2f}"
            )
    return "\n".join(lines)
