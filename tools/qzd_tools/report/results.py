"""Result files of validate, quantize and benchmark, read and joined by the digest of the bundle."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Struct

from qzd_ext import bundle as bundles
from qzd_ext.bundle import Bundle
from qzd_ext.errors import DataError, QzdError
from qzd_ext.manifest import Thresholds
from qzd_tools.benchmark.run import Benchmark
from qzd_tools.files import reading
from qzd_tools.system.machine import Machine

__all__ = ["TITLES", "CandidateResult", "ClassResult", "Results", "Variant", "read_results"]

TITLES = {"fp32": "FP32", "fp16": "FP16", "int8-weights": "INT8 weights", "int8": "INT8"}
"""Precisions in the order in which they are shown, as a reader knows them."""
Precision = Literal["fp32", "fp16", "int8-weights", "int8"]


class _Made(Struct, frozen=True):
    """A bundle as quantize names it."""

    name: str
    digest: str
    path: str


class _Named(_Made, frozen=True):
    """A bundle as validate and benchmark name it."""

    precision: Precision


class ClassResult(Struct, frozen=True):
    """One class of a validation."""

    label: str
    instances: int
    metrics: dict[str, float | None]


class _Validation(Struct, frozen=True):
    """What `validate --json` writes, as far as it is shown."""

    bundle: _Named
    metrics: dict[str, float | None]
    classes: list[ClassResult]
    images: int
    dataset: str
    device: str
    seconds: float
    curve: list[float]
    note: str
    thresholds: Thresholds
    inference_precision: str = "f32"


class _Compared(_Validation, frozen=True):
    """The same with `--baseline`."""

    baseline: _Validation | None = None


class _Sizes(Struct, frozen=True):
    before: int
    after: int


class CandidateResult(Struct, frozen=True):
    """One candidate that quantize chose from."""

    name: str
    agreement: float | None
    speed: float
    chosen: bool = False


class _Quantized(Struct, frozen=True):
    """What `quantize --json` writes, as far as it is shown."""

    bundle: _Made
    parent: str
    precision: Precision
    bytes: _Sizes
    seconds: float
    inference_precision: str = "f32"
    candidates: tuple[CandidateResult, ...] = ()


class _Measured(Benchmark, frozen=True, kw_only=True):
    """One bundle's figures, with its name."""

    @property
    def named(self) -> _Named:
        return msgspec.convert(self.bundle, _Named)

    def __post_init__(self) -> None:
        msgspec.convert(self.bundle, _Named)


class _Benchmarks(Struct, frozen=True):
    """What `benchmark --json` writes."""

    machine: Machine
    frames: str
    benchmarks: Annotated[list[_Measured], msgspec.Meta(min_length=1)]


@dataclass(slots=True)
class Variant:
    """One bundle in one precision and everything that was measured of it; None where it was not measured.

    `precision` is that of the weights, `inference_precision` that of the arithmetic.
    """

    digest: str
    name: str
    precision: str
    path: str
    inference_precision: str = "f32"
    validation: _Validation | None = None
    benchmark: Benchmark | None = None
    quantized: _Quantized | None = None
    title: str = ""

    @property
    def bytes(self) -> int | None:
        """Of graph and weights."""
        if self.benchmark is not None:
            return self.benchmark.bytes
        if self.quantized is not None:
            return self.quantized.bytes.after
        try:
            return self.bundle().size
        except QzdError:
            return None

    @property
    def main(self) -> float | None:
        """`map` or `top1`."""
        if self.validation is None:
            return None
        metrics = self.validation.metrics
        return metrics.get("map", metrics.get("top1"))

    def bundle(self) -> Bundle:
        """Read the bundle itself.

        Raises
        ------
        DataError
            It is no longer at its path, or is another one by now.
        """
        path = Path(self.path)
        if not path.exists() or (found := bundles.read(path)).digest != self.digest:
            raise DataError(
                f"{path}: the bundle that was measured is no longer there",
                wanted=f"the digest {self.digest}",
                fix="measure what is there, or leave out the images",
            )
        return found


@dataclass(frozen=True, slots=True)
class Results:
    """All that is reported on.

    Attributes
    ----------
    variants : tuple of Variant
        Float first, then smaller and smaller.
    machine : Machine or None
        Where the benchmark ran.
    frames : str
        What the benchmark ran on.
    """

    variants: tuple[Variant, ...]
    machine: Machine | None
    frames: str

    @property
    def original(self) -> Variant:
        """The one that the others are compared with."""
        return self.variants[0]

    @property
    def candidates(self) -> tuple[CandidateResult, ...]:
        """What INT8 was chosen from; empty if there was no choice."""
        made = [v.quantized for v in self.variants if v.quantized is not None]
        return next((one.candidates for one in made if one.candidates), ())

    @property
    def smallest(self) -> Variant | None:
        """Give INT8 if it was measured, or else the last one; None if there is only one."""
        others = [v for v in self.variants if v.digest != self.original.digest]
        int8 = [v for v in others if v.precision == "int8"] or others
        return int8[-1] if int8 else None


def read_results(paths: Sequence[Path]) -> Results:
    """Read result files and join them by bundle.

    Raises
    ------
    DataError
        One cannot be read or is no result, or two cannot be compared: accuracies on different data sets or
        with different thresholds, speeds of different machines or with different hints.
    """
    known: dict[tuple[str, str], Variant] = {}
    accuracies: dict[Hashable, str] = {}
    speeds: dict[Hashable, str] = {}
    machine, frames = None, ""

    def variant(named: _Made, precision: str, inference: str) -> Variant:
        fresh = Variant(named.digest, named.name, precision, named.path, inference)
        return known.setdefault((named.digest, inference), fresh)

    for path in paths:
        result = _read(path)
        if isinstance(result, _Benchmarks):
            machine, frames = result.machine, result.frames
            for one in result.benchmarks:
                speeds[msgspec.json.encode((machine, one.hint))] = str(path)
                variant(one.named, one.named.precision, one.inference_precision).benchmark = one
        elif isinstance(result, _Quantized):
            variant(result.bundle, result.precision, result.inference_precision).quantized = result
        else:
            for validation in filter(None, (result, result.baseline)):
                named, limits = validation.bundle, validation.thresholds
                accuracies[validation.dataset, limits.confidence, limits.max_detections] = str(path)
                variant(named, named.precision, validation.inference_precision).validation = validation
    order = list(TITLES)
    floats = ("f32", "f16", "bf16")
    variants = sorted(
        known.values(),
        key=lambda v: (v.name, order.index(v.precision), floats.index(v.inference_precision)),
    )
    _check_comparable(accuracies, "validated on different data sets, or with different thresholds")
    _check_comparable(speeds, "benchmarked on different machines, or with different hints")
    several = len({v.name for v in variants}) > 1
    for each in variants:
        each.title = (f"{each.name} " if several else "") + _title(each)
    return Results(tuple(variants), machine, frames)


def _title(variant: Variant) -> str:
    """Name it for a reader: FP32, BF16 for a float model that computes in bf16, INT8 in BF16."""
    weights, arithmetic = TITLES[variant.precision], variant.inference_precision.upper()
    if arithmetic == "F32":
        return weights
    return arithmetic if variant.precision == "fp32" else f"{weights} in {arithmetic}"


def _read(path: Path) -> _Compared | _Quantized | _Benchmarks:
    wanted = "what `validate`, `quantize` or `benchmark` wrote with --json"
    with reading(path, wanted=wanted, fix="run the command again with --json FILE, or leave the file out"):
        raw = msgspec.json.decode(path.read_bytes())
        keys = set(raw) if isinstance(raw, dict) else set()
        if "benchmarks" in keys:
            return msgspec.convert(raw, _Benchmarks)
        return msgspec.convert(raw, _Quantized) if "parent" in keys else msgspec.convert(raw, _Compared)


def _check_comparable(measured: dict[Hashable, str], how: str) -> None:
    """One way of measuring is what all figures must share; the dict has a file for each way."""
    if len(measured) > 1:
        raise DataError(
            f"{how}: {', '.join(measured.values())}",
            wanted="figures that can be compared",
            fix="measure all bundles in the same way, or make a report of each",
        )
