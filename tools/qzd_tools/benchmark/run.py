"""How fast bundles run, by the daemon's own engine, in turns so that a busy machine is unfair to none.

Each round gives every bundle its turn: only inference (`Runner`), then a frame's whole way through
`Detector` (preprocessing, inference, decoding), then benchmark_app where it is asked for.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from msgspec import Struct

from qzd_ext.bundle import Bundle
from qzd_ext.detector import Detector, Result
from qzd_ext.errors import QzdError
from qzd_ext.geometry import Frame
from qzd_ext.golden import read_golden
from qzd_ext.runner import Runner, RunOptions
from qzd_tools.benchmark.benchmark_app import AppResult, run_benchmark_app
from qzd_tools.benchmark.footprint import Footprint, footprint
from qzd_tools.benchmark.throughput import Samples, Tally, infer_repeatedly
from qzd_tools.data.images import evenly, read_image
from qzd_tools.progress import progress

__all__ = ["Benchmark", "Speed", "benchmark", "frames_from"]

MOST_FRAMES = 64
MOST_BYTES = 1 << 30
"""Kept decoded in memory, and the frame that reaches beyond."""
NOISE = (720, 1280, 3)
WARM_UP_SECONDS = 0.3


class Speed(Struct, frozen=True, kw_only=True):
    """Throughput, as the median of the rounds, and latency over all of them, in milliseconds."""

    throughput: float
    """A second."""
    spread: float
    """Of the rounds' throughputs: (largest - smallest) / median."""
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    samples: int
    histogram: tuple[tuple[float, int], ...]
    """Upper edge in milliseconds and count, 40 bins of equal width up to the 99.5th percentile."""


class Benchmark(Struct, frozen=True, kw_only=True):
    """One bundle's figures."""

    bundle: dict[str, str]
    bytes: int
    devices: tuple[str, ...]
    """That really executed."""
    threads: int | None
    """That OpenVINO really used."""
    requests: int
    hint: str
    inference_precision: str = "f32"
    """What the device computed in where the graph is not quantized."""
    inference: Speed
    """Only the model."""
    whole: Speed
    """From the frame to its detections."""
    stages_ms: dict[str, float]
    """Mean of preprocess, inference and postprocess within `whole`."""
    footprint: Footprint
    app: AppResult | None = None
    """benchmark_app on the same model, in turn; the median of the rounds."""


@dataclass(slots=True)
class _Turns:
    """What is measured of one bundle, round by round."""

    bundle: Bundle
    options: RunOptions
    runner: Runner
    detector: Detector
    inference: Samples = field(default_factory=Samples)
    whole: Samples = field(default_factory=Samples)
    stages: list[tuple[float, float, float]] = field(default_factory=list)
    app: list[AppResult] = field(default_factory=list)


def frames_from(images: Sequence[Path], bundle: Bundle) -> tuple[list[Frame], str]:
    """Frames to run on, and what they are in words: images, or the bundle's golden frames, or noise.

    Raises
    ------
    DataError
        An image cannot be read.
    """
    if images:
        frames: list[Frame] = []
        for path in evenly(images, MOST_FRAMES):
            if sum(frame.nbytes for frame in frames) < MOST_BYTES:
                frames.append(read_image(path))
        return frames, f"{len(frames)} images"
    golden = [one.frame for one in read_golden(bundle)]
    if golden:
        return golden, f"{len(golden)} golden frames of {bundle.manifest.name}"
    noise = np.random.default_rng(0).integers(0, 256, NOISE, np.uint8)
    return [noise], f"noise of {NOISE[1]}x{NOISE[0]}"


def benchmark(
    targets: Sequence[tuple[Bundle, RunOptions]],
    frames: Sequence[Frame],
    *,
    seconds: float = 10.0,
    rounds: int = 5,
    compare: bool = False,
) -> list[Benchmark]:
    """Measure bundles beside each other.

    Parameters
    ----------
    targets : sequence of (Bundle, RunOptions)
        A bundle may be measured several times, as in two precisions.
    frames : sequence of (h, w, 3) uint8, BGR
        Taken in turn.
    seconds : float
        For each bundle and each of the two ways of running, over all rounds.
    rounds : int
    compare : bool
        Run benchmark_app in each round too.

    Raises
    ------
    ModelError, DeviceError
        A bundle cannot be run.
    """
    costs = [footprint(bundle.path, options) for bundle, options in targets]
    with contextlib.ExitStack() as stack, progress("benchmark", rounds * len(targets)) as step:
        turns = [_opened(stack, bundle, options, frames) for bundle, options in targets]
        for _, turn in itertools.product(range(rounds), turns):
            _take(turn, frames, seconds / rounds, compare)
            step(f"{turn.bundle.manifest.name} {turn.bundle.manifest.precision}")
        return [_figures(turn, cost) for turn, cost in zip(turns, costs, strict=True)]


def _opened(
    stack: contextlib.ExitStack, bundle: Bundle, options: RunOptions, frames: Sequence[Frame]
) -> _Turns:
    """Open a bundle and warm it up."""
    runner = Runner(bundle, options)
    stack.callback(runner.close)
    detector = stack.enter_context(Detector(bundle, options))
    turn = _Turns(bundle, options, runner, detector)
    infer_repeatedly(turn.runner, Tally(turn.inference), WARM_UP_SECONDS)
    _detect(turn, frames, WARM_UP_SECONDS)
    return _Turns(bundle, options, runner, detector)


def _take(turn: _Turns, frames: Sequence[Frame], seconds: float, compare: bool) -> None:
    infer_repeatedly(turn.runner, Tally(turn.inference), seconds)
    _detect(turn, frames, seconds)
    if compare:
        threads = turn.runner.threads
        precision = turn.detector.precision
        turn.app.append(run_benchmark_app(turn.bundle.model, turn.options, threads, seconds, precision))


def _detect(turn: _Turns, frames: Sequence[Frame], seconds: float) -> None:
    """Every request busy with frames, from pixels to boxes."""
    detector, tally = turn.detector, Tally(turn.whole)
    endless = itertools.cycle(frames)

    def start() -> None:
        slot = detector.acquire()
        assert slot is not None
        begin = time.perf_counter()

        def done(outcome: Result | QzdError) -> None:
            if isinstance(outcome, QzdError):
                tally.end(begin, outcome)
                return
            spent = outcome.timing
            turn.stages.append((spent.preprocess, spent.inference, spent.postprocess))
            tally.end(begin, None)

        detector.start(slot, next(endless), done)

    tally.run(start, detector.drain, seconds)


def _speed(samples: Samples) -> Speed:
    p50, p90, p99, edge = np.percentile(samples.latencies, [50, 90, 99, 99.5])
    counts, edges = np.histogram(samples.latencies, bins=40, range=(0, max(float(edge), 1e-3)))
    rate = statistics.median(samples.rates)
    return Speed(
        throughput=rate,
        spread=(max(samples.rates) - min(samples.rates)) / rate,
        mean_ms=statistics.fmean(samples.latencies),
        p50_ms=float(p50),
        p90_ms=float(p90),
        p99_ms=float(p99),
        samples=len(samples.latencies),
        histogram=tuple(zip(edges[1:].tolist(), counts.tolist(), strict=True)),
    )


def _figures(turn: _Turns, cost: Footprint) -> Benchmark:
    manifest = turn.bundle.manifest
    names = ("preprocess", "inference", "postprocess")
    means = [statistics.fmean(column) for column in zip(*turn.stages, strict=True)]
    app = None
    if turn.app:
        rates, medians = [a.throughput for a in turn.app], [a.median_ms for a in turn.app]
        app = AppResult(statistics.median(rates), statistics.median(medians))
    return Benchmark(
        bundle={
            "name": manifest.name,
            "version": manifest.version,
            "precision": manifest.precision,
            "digest": turn.bundle.digest,
            "path": str(turn.bundle.path),
        },
        bytes=turn.bundle.size,
        devices=turn.detector.devices,
        threads=turn.runner.threads,
        requests=turn.detector.requests,
        hint=turn.options.hint,
        inference_precision=turn.detector.precision,
        inference=_speed(turn.inference),
        whole=_speed(turn.whole),
        stages_ms=dict(zip(names, means, strict=True)),
        footprint=cost,
        app=app,
    )
