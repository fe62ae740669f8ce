"""A float bundle into a smaller one: INT8, INT8 weights, or FP16, with proof of what it cost.

`quantize` is the whole way, top to bottom.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openvino as ov

from qzd_ext import bundle as bundles
from qzd_ext.bundle import Bundle
from qzd_ext.errors import GateError, UsageError
from qzd_ext.runner import Runner, RunOptions
from qzd_tools.benchmark.throughput import throughputs
from qzd_tools.data.coco import Dataset
from qzd_tools.graph.structure import find_head, is_quantized
from qzd_tools.quantize.calibration import FEW, choose, hold_out, overlap
from qzd_tools.quantize.candidates import Measured, Prefer, make_candidates, measure_candidates, pick
from qzd_tools.quantize.draft import Job, Mode, Say
from qzd_tools.quantize.recipe import Recipe, ignored_operations, make_names_unique, settled
from qzd_tools.quantize.revert import revert_layers
from qzd_tools.quantize.search import RANKING_IMAGES, Attempt, Judgement, Make, escalate, rank_layers
from qzd_tools.system import isa
from qzd_tools.validate.gates import check_agreement, check_baseline, check_drop, compare
from qzd_tools.validate.run import Validation, validate

__all__ = ["Gate", "GateMissedError", "Mode", "Quantized", "Speed", "accuracy_figures", "quantize"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Validation data, and what may be lost on it.

    Attributes
    ----------
    dataset : Dataset
    max_drop : float or None
        By how much mAP or top-1 may fall; None measures and lets everything pass.
    max_disagreement : float or None
        By how much the model may disagree with the float one.
    certainty : float or None
        With which both must be kept, 0..1; None compares what was measured.
    time_budget : float
        Seconds for the search after the plain recipe missed.
    """

    dataset: Dataset
    max_drop: float | None = None
    max_disagreement: float | None = None
    certainty: float | None = None
    time_budget: float = 1800.0


@dataclass(frozen=True, slots=True)
class Speed:
    """Inferences per second on this machine, before and after."""

    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Quantized:
    """What came out.

    Attributes
    ----------
    bundle : Bundle
        Read back, with its hashes checked.
    parent : Bundle
    before, after : Validation or None
        Where there was validation data.
    speed : Speed
    seconds, processor_seconds : float
        For quantizing only, without checks and measurements.
    missed : GateError or None
        Why `gate.max_drop` is not kept; the bundle is the best that was found.
    """

    bundle: Bundle
    parent: Bundle
    before: Validation | None
    after: Validation | None
    speed: Speed
    seconds: float
    processor_seconds: float
    missed: GateError | None = None
    candidates: tuple[Measured, ...] = ()
    """What was chosen from, by agreement and speed."""

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` writes."""
        manifest = self.bundle.manifest
        return {
            "bundle": {"path": str(self.bundle.path), "name": manifest.name, "digest": self.bundle.digest},
            "parent": self.parent.digest,
            "precision": manifest.precision,
            "inference_precision": manifest.inference_precision,
            "bytes": {"before": self.parent.size, "after": self.bundle.size},
            "throughput": {"before": self.speed.before, "after": self.speed.after},
            **accuracy_figures(self.before, self.after, self.missed),
            "seconds": self.seconds,
            "candidates": [one.as_json() for one in self.candidates],
            "provenance": manifest.provenance,
        }


def accuracy_figures(
    before: Validation | None, after: Validation | None, missed: GateError | None
) -> dict[str, Any]:
    """Return the accuracy that was measured and the gate that was missed, as JSON has them."""
    return {
        "metrics": after.score.metrics if after else None,
        "baseline": before.score.metrics if before else None,
        "drop": after.drop_from(before) if before and after else None,
        "missed": missed.found if missed else None,
    }


class GateMissedError(GateError):
    """The gate was missed over a bundle that stays; `before` and `after` are what was measured."""

    code = "gate_missed"

    def __init__(self, why: GateError, before: Validation, after: Validation) -> None:
        super().__init__(why.found, wanted=why.wanted, fix=why.fix)
        self.before, self.after = before, after


def quantize(
    parent: Bundle,
    destination: Path,
    *,
    mode: Mode = "int8",
    recipe: Recipe = Recipe(),
    prefer: Prefer | None = "speed",
    images: Sequence[Path] = (),
    seed: int = 0,
    gate: Gate | None = None,
    allow_overlap: bool = False,
    overwrite: bool = False,
    options: RunOptions = RunOptions(),
    say: Say = lambda _: None,
) -> Quantized:
    """Make a smaller bundle of a float one.

    Parameters
    ----------
    parent : Bundle
    destination : Path
    mode : "int8", "int8-weights" or "fp16"
        Activations and weights; weights only; half precision.
    recipe : Recipe
        For "int8".
    prefer : "speed", "accuracy" or None
        How to choose among candidates by agreement and speed, see `candidates.pick`; a quarter of the images
        is set apart for that. None makes the plain recipe only, as do few images.
    images : sequence of Path
        To calibrate with; needed only for "int8".
    seed : int
        For the choice of images where there are more than `recipe.subset_size`.
    gate : Gate, optional
        Validation data: before and after are measured and written into the bundle.
    allow_overlap : bool
        Whether images may be in both sets.
    overwrite : bool
        Replace a bundle that is at the destination.
    options : RunOptions
        Where to measure.
    say : callable
        Told what is found out on the way.

    Raises
    ------
    UsageError
        The destination is the parent, the parent is quantized already, an ignored name matches nothing, or
        the two sets share images.
    DataError
        There are too few images, one cannot be read, or there is a gate and nothing that could be lost.
    DeviceError
        The device does not exist, or cannot run the model.
    GateMissedError
        The drop is above `gate.max_drop` after all, and there was a bundle before, which stays. Where there
        was none, the best that was found is written, with its accuracy in it, and `missed` says why.
    BundleError
        The destination cannot be written.
    """
    if destination.resolve() == parent.path.resolve():
        found = f"{destination} is the bundle that is quantized"
        raise UsageError(found, wanted="another one: the parent is kept", fix="name it with -o")
    model = _read_float(parent)
    _check_early(parent, model, mode, recipe, options)
    fresh = not (destination / bundles.MANIFEST).is_file()
    with bundles.create(destination, overwrite=overwrite) as draft:
        job = Job(parent, draft, mode, recipe, seed, options)
        held_out: tuple[Path, ...] = ()
        if mode == "int8":
            job.calibration = choose(images, recipe.subset_size, seed, job.prepare)
            _tell_about_calibration(job, gate, allow_overlap, say)
            if prefer is not None:
                job.calibration, held_out = hold_out(job.calibration)
        before = validate(parent, gate.dataset, options=options, title="float") if gate else None
        if gate is not None and before is not None and gate.max_drop is not None:
            check_baseline(before)
        stopwatch = _Stopwatch()
        graph, chosen, candidates = _made(job, model, held_out, prefer, say)
        recipe, reverted = chosen
        seconds, processor_seconds = stopwatch.read()
        after = job.measure(graph, recipe, reverted, gate.dataset) if gate else None
        missed = None
        if gate is not None and before is not None and after is not None:
            judged = _judged(gate, before, after)
            plain = Attempt(graph, settled(model, recipe), reverted, judged, stopwatch.read()[0])
            after = _improve(job, model, plain, gate, before, say).judgement.validation or after
            missed = _missed(job, gate, before, after)
            if missed is not None and not fresh:
                raise GateMissedError(missed, before, after)
        else:
            job.save(graph, recipe, reverted)
        if after is not None:
            job.record(after.accuracy(before))
        job.write_golden(say)
        model_file = draft.directory / bundles.MODEL
        precision = options.precision or parent.manifest.inference_precision
        same = dataclasses.replace(options, precision=precision)
        speed = Speed(*throughputs([(parent, options), (model_file, same)]))
    bundle = bundles.read(destination)
    if missed is not None:
        say(f"the best that was found is at {destination}, with its accuracy in it")
    after = dataclasses.replace(after, bundle=bundle) if after else None
    figures = before, after, speed, seconds, processor_seconds, missed, candidates
    return Quantized(bundle, parent, *figures)


Choice = tuple[Recipe, tuple[str, ...]]
"""A recipe, and the layers that were put back to float after it."""


def _made(
    job: Job, model: ov.Model, held_out: Sequence[Path], prefer: Prefer | None, say: Say
) -> tuple[ov.Model, Choice, tuple[Measured, ...]]:
    """Make the smaller graph; if images were held out, choose among candidates on them."""
    if not held_out or prefer is None:
        return job.make(model, job.recipe), (job.recipe, ()), ()
    recipe = job.recipe
    if recipe.head_layers == "auto":  # whether they stay in float is found out
        recipe = dataclasses.replace(recipe, head_layers="int8")
    candidates = list(make_candidates(job.make(model, recipe), model))
    measured = measure_candidates(candidates, job.parent, held_out, job.options)
    best = pick(measured, prefer)
    measured = [dataclasses.replace(one, chosen=one is best) for one in measured]
    say(f"{len(measured)} candidates, measured on {len(held_out)} images that were not calibrated with:")
    for one in measured:
        say(f"  {one}")
    job.candidates = [str(one) for one in measured]
    reverted = best.candidate.reverted
    if last := set(find_head(model).layers) & set(reverted):  # the recipe has a word for these
        recipe = dataclasses.replace(recipe, head_layers="float")
        reverted = tuple(name for name in reverted if name not in last)
    return best.candidate.graph, (recipe, reverted), tuple(measured)


class _Stopwatch:
    """Seconds since it was made: on the wall, and of this process's threads."""

    def __init__(self) -> None:
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._processor


def _read_float(parent: Bundle) -> ov.Model:
    """Read the parent's graph and make its names unique."""
    model = ov.Core().read_model(parent.model)
    if is_quantized(model) or parent.manifest.precision.startswith("int8"):
        raise UsageError(
            f"{parent.path} is quantized already ({parent.manifest.precision})",
            wanted="a float bundle",
            fix="quantize the bundle that it was made from, or convert the float model",
        )
    make_names_unique(model)
    return model


def _check_early(parent: Bundle, model: ov.Model, mode: Mode, recipe: Recipe, options: RunOptions) -> None:
    """Refuse now what would stop the work at its end: a name without a match, a missing device."""
    if mode == "int8":
        ignored_operations(model, recipe)
    Runner(parent.model, options).close()


def _tell_about_calibration(job: Job, gate: Gate | None, allow_overlap: bool, say: Say) -> None:
    assert job.calibration is not None
    count = len(job.calibration.images)
    few = f"; {FEW} or more make better ranges" if count < FEW else ""
    say(f"calibrating with {count} images{few}")
    if gate is not None:
        shared = overlap(job.calibration, [p.path for p in gate.dataset.pictures], allowed=allow_overlap)
        if shared:
            say(f"warning: {shared}")
    advice = isa.advice(job.recipe.target_isa, isa.host_isa())
    if advice:
        say(advice)


def _improve(job: Job, model: ov.Model, plain: Attempt, gate: Gate, before: Validation, say: Say) -> Attempt:
    """Search for a better recipe if the plain one misses the gate; the best is in the draft at the end."""

    def judge(candidate: ov.Model, recipe: Recipe, reverted: tuple[str, ...]) -> Judgement:
        return _judged(gate, before, job.measure(candidate, recipe, reverted, gate.dataset))

    def reverts(attempt: Attempt, seconds: float) -> Iterator[tuple[tuple[str, ...], Make]]:
        assert job.calibration is not None
        inputs = [job.prepare(path) for path in job.calibration.images[:RANKING_IMAGES]]
        ranked = rank_layers(attempt.model, model, inputs, seconds=seconds)
        count = 1
        while count <= len(ranked):
            chosen = tuple(ranked[:count])
            yield chosen, functools.partial(revert_layers, attempt.model, model, chosen)
            count *= 2

    say(f"plain recipe: drop {plain.drop:+.4f}")
    if gate.max_drop is None or plain.drop <= gate.max_drop or job.mode != "int8":
        return plain
    make = functools.partial(job.make, model)
    best = escalate(plain, gate.max_drop, gate.time_budget, make, judge, reverts, say)
    job.save(best.model, best.recipe, best.reverted)
    return best


def _judged(gate: Gate, before: Validation, after: Validation) -> Judgement:
    """Say what a validation loses: the measured drop, or its bound if the gate asks for certainty."""
    drop = compare(after, before, gate.dataset).drop
    return Judgement(drop.value if gate.certainty is None else drop.upper(gate.certainty), after)


def _missed(job: Job, gate: Gate, before: Validation, after: Validation) -> GateError | None:
    """Give the first gate that is missed."""
    comparison = compare(after, before, gate.dataset)
    try:
        if gate.max_drop is not None:
            check_drop(comparison, gate.max_drop, gate.certainty)
        if gate.max_disagreement is not None:
            check_agreement(comparison.agreement, gate.max_disagreement, gate.certainty)
    except GateError as error:
        more = "give more --time-budget or images, or " if job.mode == "int8" else ""
        return GateError(error.found, wanted=error.wanted, fix=f"{more}choose another --mode")
    return None
