"""Which layers of an INT8 model stay in float: candidates, measured by agreement and speed, and the choice.

All of them come from one quantization. Agreement with the float model is measured on images that were not
used to calibrate, and needs no labels; speed is measured in turns on this machine.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import openvino as ov

from qzd_ext import bundle as bundles
from qzd_ext.bundle import Bundle
from qzd_ext.runner import RunOptions, available_precisions
from qzd_tools.benchmark.throughput import throughputs
from qzd_tools.data.coco import Picture
from qzd_tools.graph.save import save_ir
from qzd_tools.graph.structure import find_head, weighted_layers
from qzd_tools.progress import progress
from qzd_tools.quantize.overflow import quantized_weight
from qzd_tools.quantize.revert import revert_layers
from qzd_tools.validate.agreement import agreement
from qzd_tools.validate.bootstrap import Interval
from qzd_tools.validate.predict import predict
from qzd_tools.validate.run import validation_thresholds

__all__ = ["Candidate", "Measured", "Prefer", "make_candidates", "measure_candidates", "pick"]

Prefer = Literal["speed", "accuracy"]

ENOUGH = 0.95
"""Agreement from which on the faster candidate is the better one."""
FASTER = 1.1
"""What INT8 should gain over the better float precision to be worth its losses."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One INT8 graph, and the layers that were put back to float in it."""

    name: str
    graph: ov.Model
    reverted: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A candidate with its agreement, and its speed beside that of the better float precision."""

    candidate: Candidate
    agreement: Interval
    speed: float
    chosen: bool = False

    def __str__(self) -> str:
        """Name it with its figures, for a person."""
        figures = f"agreement {self.agreement.value:.4f}, {self.speed:.2f} times the speed of float"
        return f"{self.candidate.name}: {figures}" + (", chosen" if self.chosen else "")

    def as_json(self) -> dict[str, str | float | bool | None]:
        """Return what `--json` writes; JSON has no NaN."""
        value, error = (None if math.isnan(v) else v for v in (self.agreement.value, self.agreement.error))
        figures = {"agreement": value, "error": error, "speed": self.speed, "chosen": self.chosen}
        return {"name": self.candidate.name, **figures}


def make_candidates(quantized: ov.Model, original: ov.Model) -> Iterator[Candidate]:
    """Put kinds of layers back to float: the last ones, which make boxes, and the depthwise ones.

    Depthwise layers have few weights per output and gain little speed from eight bits.
    """
    layers = [node for node in weighted_layers(quantized) if quantized_weight(node) is not None]
    names = {node.get_friendly_name() for node in layers}
    last = sorted(names & set(find_head(original).layers))
    depthwise = [n.get_friendly_name() for n in layers if n.get_type_name() == "GroupConvolution"]
    kinds = {
        "all layers in int8": (),
        "last layers in float": tuple(last),
        "depthwise layers in float": tuple(depthwise),
        "last and depthwise layers in float": tuple({*last, *depthwise}) if last and depthwise else (),
    }
    for name, reverted in kinds.items():
        if reverted and len(reverted) < len(names):
            yield Candidate(name, revert_layers(quantized, original, reverted), tuple(sorted(reverted)))
        elif name == "all layers in int8":
            yield Candidate(name, quantized, ())


def measure_candidates(
    candidates: Sequence[Candidate], parent: Bundle, images: Sequence[Path], options: RunOptions
) -> list[Measured]:
    """Measure candidates on images that they were not calibrated with.

    Parameters
    ----------
    candidates : sequence of Candidate
    parent : Bundle
        The float bundle.
    images : sequence of Path
    options : RunOptions

    Raises
    ------
    DataError
        An image cannot be read.
    DeviceError
        The device cannot run the parent or a candidate.
    """
    pictures = [Picture(path, 0) for path in images]
    limits = validation_thresholds(parent.manifest)
    reference, _ = predict(parent, pictures, limits, options, "float")
    with tempfile.TemporaryDirectory(prefix="qzd-candidates-") as folder:
        made = [_unsealed(one, parent, Path(folder) / str(i)) for i, one in enumerate(candidates)]
        agreements = []
        with progress("candidates", len(made)) as step:
            for bundle in made:
                found, _ = predict(bundle, pictures, limits, options, "")
                agreements.append(agreement(found, reference, parent.manifest))
                step(f"agreement {agreements[-1].value:.4f}")
        speeds = _speeds(parent, made, options)
    return [Measured(*row) for row in zip(candidates, agreements, speeds, strict=True)]


def _unsealed(candidate: Candidate, parent: Bundle, folder: Path) -> Bundle:
    folder.mkdir()
    save_ir(candidate.graph, folder / bundles.MODEL)
    manifest = msgspec.structs.replace(parent.manifest, precision="int8")
    return bundles.unsealed(folder, manifest, parent.priors)


def _speeds(parent: Bundle, made: Sequence[Bundle], options: RunOptions) -> list[float]:
    """Measure each beside the better float precision, in turns; on a CPU without what other programs take."""
    floats = [(parent, options)]
    if options.precision is None:
        others = set(available_precisions(options.device)) - {parent.manifest.inference_precision}
        floats += [(parent, dataclasses.replace(options, precision=precision)) for precision in others]
    clock = time.process_time if options.device == "CPU" else time.perf_counter
    rates = throughputs([*floats, *((bundle, options) for bundle in made)], clock=clock)
    return [rate / max(rates[: len(floats)]) for rate in rates[len(floats) :]]


def pick(measured: Sequence[Measured], prefer: Prefer) -> Measured:
    """Choose the candidate to keep.

    With `speed`, it is the fastest that agrees enough. With `accuracy`, or if none agrees enough, it is the
    one that agrees most and is faster than float; if none is faster, the one that agrees most.
    """
    good = [one for one in measured if one.agreement.value >= ENOUGH]
    if prefer == "speed" and good:
        return max(good, key=lambda one: one.speed)
    fast = [one for one in measured if one.speed >= FASTER]
    return max(fast or measured, key=lambda one: (_known(one.agreement.value), one.speed))


def _known(agreement: float) -> float:
    """Rank a candidate whose agreement could not be measured last."""
    return -1.0 if math.isnan(agreement) else agreement
