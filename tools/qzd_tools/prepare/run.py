"""A model from its download to its report, in one go: every step is that of the command of its name.

`prepare` is the whole way, top to bottom. A run that was killed goes on where it stopped: `ledger` knows
which steps are done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from qzd_ext import __version__
from qzd_ext import bundle as bundles
from qzd_ext.bundle import Bundle
from qzd_ext.manifest import InferencePrecision, Manifest
from qzd_ext.runner import Runner, RunOptions, available_precisions
from qzd_tools.benchmark.run import benchmark, frames_from
from qzd_tools.convert.formats.read import read_source
from qzd_tools.convert.golden import GOLDEN_FRAMES
from qzd_tools.convert.run import ConvertOptions, convert
from qzd_tools.data.coco import Dataset
from qzd_tools.data.images import combined_digest, content_hashes, evenly
from qzd_tools.download.catalogue import Entry
from qzd_tools.download.http import Patience, checksum_of
from qzd_tools.download.run import Origin, download, downloaded
from qzd_tools.files import write_whole
from qzd_tools.prepare.ledger import Ledger, open_ledger
from qzd_tools.quantize.calibration import Calibration, overlap
from qzd_tools.quantize.draft import Mode, Say
from qzd_tools.quantize.run import Gate, Quantized, quantize
from qzd_tools.report import write_report
from qzd_tools.system.machine import this_machine
from qzd_tools.validate.run import Validation, validate

__all__ = ["Plan", "Prepared", "prepare"]

ORIGINAL = "original"
BF16 = "bf16"
"""The original once more, computing in bf16 where the device can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is asked for.

    Attributes
    ----------
    name : str
        Of the model, and of its bundles.
    output : Path
        Everything is made in this directory.
    entry : Entry or None
        Of the catalogue, for a model that is downloaded.
    sources : tuple of Path
        The model's files where there is no entry.
    convert : ConvertOptions
    calibration : tuple of Path
        Images to calibrate with; some of them become golden frames.
    dataset : callable
        Gives the validation data for a manifest.
    modes : tuple of str
        What to quantize to.
    max_drop : float or None
        What INT8 may lose; the search for a better recipe begins above it.
    time_budget : float
        Seconds for that search.
    allow_overlap : bool
        Whether images may be both for calibration and for validation.
    seconds, rounds : float, int
        Of the benchmark, for each bundle.
    compare : bool
        Run benchmark_app too.
    options : RunOptions
        Where to measure.
    origin, patience
        Of the download.
    """

    name: str
    output: Path
    entry: Entry | None
    sources: tuple[Path, ...]
    convert: ConvertOptions
    calibration: tuple[Path, ...]
    dataset: Callable[[Manifest], Dataset]
    modes: tuple[Mode, ...]
    max_drop: float | None
    time_budget: float
    allow_overlap: bool
    seconds: float
    rounds: int
    compare: bool
    options: RunOptions
    origin: Origin
    patience: Patience

    def results(self, name: str) -> Path:
        """Where a step leaves its figures."""
        return self.output / "results" / f"{name}.json"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is there in the end.

    Attributes
    ----------
    bundles : dict of str to Bundle
        By directory: `original`, `int8`, ...
    results : tuple of Path
        JSON files with every figure.
    report : Path
        HTML; its Markdown is beside it.
    fresh : dict of str to bool
        By step, in order: whether it was done now or recognised.
    missed : str
        Why the gate failed; empty when it held, or there was none.
    """

    bundles: dict[str, Bundle]
    results: tuple[Path, ...]
    report: Path
    fresh: dict[str, bool]
    missed: str


def prepare(plan: Plan, say: Say = lambda _: None) -> Prepared:
    """Download, convert, quantize, validate, benchmark and report; steps that are done are not done again.

    Raises
    ------
    QzdError
        A step failed. What was done before is kept, and a later call goes on from there.
    """
    with open_ledger(plan.output) as ledger:
        _sweep(plan)
        (plan.output / "results").mkdir(exist_ok=True)
        work = _Work(plan, ledger, say)
        sources = work.fetch()
        original = work.convert(sources)
        work.dataset = plan.dataset(original.manifest)
        if "int8" in plan.modes and not plan.allow_overlap:  # before the modes that need no data
            calibration = Calibration(plan.calibration, tuple(content_hashes(plan.calibration)))
            overlap(calibration, [p.path for p in work.dataset.pictures], allowed=False)
        missed = [work.quantize(original, mode) for mode in plan.modes]
        made = {name: bundles.read(plan.output / name) for name in (ORIGINAL, *plan.modes)}
        for name, bundle in made.items():
            work.validate(name, bundle)
        if work.measures_bf16:
            work.validate(BF16, original, "bf16")
        work.benchmark(tuple(made.values()))
        results = work.report(made)
    return Prepared(made, results, plan.output / "report.html", ledger.fresh, next(filter(None, missed), ""))


def _sweep(plan: Plan) -> None:
    """Remove what a killed run left half done; a half download is kept, to go on with."""
    for name in (ORIGINAL, *plan.modes):
        for leftover in plan.output.glob(f".{name}.*"):
            shutil.rmtree(leftover)


class _Work:
    """The steps; each is recorded when it is done."""

    def __init__(self, plan: Plan, ledger: Ledger, say: Say) -> None:
        self.plan = plan
        self.ledger = ledger
        self.say = say
        self.dataset: Dataset | None = None

    def _step(
        self, name: str, inputs: dict[str, str], outputs: Sequence[Path], work: Callable[[], object]
    ) -> str:
        def announced() -> object:
            self.say(f"{name} ...")
            return work()

        remark = self.ledger.step(name, inputs, outputs, announced)
        if not self.ledger.fresh[name]:
            self.say(f"{name}: done already")
        return remark

    def fetch(self) -> list[Path]:
        """Find or download the model's files."""
        plan = self.plan
        if plan.entry is None:
            return list(plan.sources)
        directory = plan.output / "model"
        there = downloaded(plan.name, plan.entry, directory)
        self.ledger.fresh["download"] = there is None
        self.say("download ..." if there is None else "download: done already")
        if there is None:
            shutil.rmtree(directory, ignore_errors=True)
            there = download(plan.name, plan.entry, directory, plan.origin, plan.patience)
        return there.paths(directory)

    def convert(self, sources: list[Path]) -> Bundle:
        """Make the original into a bundle."""
        plan, target = self.plan, self.plan.output / ORIGINAL
        golden = evenly(plan.calibration, GOLDEN_FRAMES)
        options = dataclasses.replace(plan.convert, name=plan.name, golden=golden, overwrite=True)
        inputs = read_source(sources).files | {
            "options": repr(dataclasses.replace(options, golden=())),
            "golden": combined_digest(content_hashes(options.golden)),
            "labels": _labels_digest(options.labels),
            "qzd": __version__,
        }
        self._step("convert", inputs, [target], lambda: convert(sources, target, options, self._note))
        return bundles.read(target)

    def _note(self, text: str) -> None:
        self.say(f"  {text}")

    def quantize(self, original: Bundle, mode: Mode) -> str:
        """One smaller bundle; why it missed the gate, or nothing."""
        plan, target = self.plan, self.plan.output / mode
        assert self.dataset is not None
        inputs = {"original": original.digest, "on": repr(plan.options), "qzd": __version__}
        if mode == "int8":
            inputs |= {
                "calibration": combined_digest(content_hashes(plan.calibration)),
                "dataset": self.dataset.digest,
                "gate": f"{plan.max_drop} in {plan.time_budget} s",
            }
        figures = plan.results(f"quantize-{mode}")

        def work() -> str:
            Runner(original.model, plan.options).close()  # a wrong device must not cost the bundle before
            shutil.rmtree(target, ignore_errors=True)
            result = self._quantized(original, mode, target)
            _write(figures, result.as_json())
            for name, one in ((ORIGINAL, result.before), (mode, result.after)):
                if one is not None:
                    self._keep_validation(name, one)
            if result.missed is None:
                return ""
            self.say(str(result.missed))
            return str(result.missed)

        return self._step(f"quantize {mode}", inputs, [target, figures], work)

    def _quantized(self, original: Bundle, mode: Mode, target: Path) -> Quantized:
        plan = self.plan
        assert self.dataset is not None
        gate = Gate(dataset=self.dataset, max_drop=plan.max_drop, time_budget=plan.time_budget)
        return quantize(
            original,
            target,
            mode=mode,
            images=plan.calibration if mode == "int8" else (),
            gate=gate if mode == "int8" else None,
            allow_overlap=plan.allow_overlap,
            options=plan.options,
            say=self._note,
        )

    @property
    def measures_bf16(self) -> bool:
        """Whether to measure the original in bf16 too: if the device can and no precision was asked for."""
        options = self.plan.options
        return options.precision is None and "bf16" in available_precisions(options.device)

    def _in(self, precision: InferencePrecision | None) -> RunOptions:
        options = self.plan.options
        return options if precision is None else dataclasses.replace(options, precision=precision)

    def _validation_inputs(
        self, bundle: Bundle, precision: InferencePrecision | None = None
    ) -> dict[str, str]:
        assert self.dataset is not None
        on = repr(self._in(precision))
        return {"bundle": bundle.digest, "dataset": self.dataset.digest, "on": on}

    def _keep_validation(self, name: str, validation: Validation) -> None:
        """Keep what quantize measured, which need not be measured again."""
        figures = self.plan.results(f"validate-{name}")
        inputs = self._validation_inputs(validation.bundle)
        self.ledger.step(
            f"validate {name}", inputs, [figures], lambda: _write(figures, validation.as_json())
        )

    def validate(
        self, name: str, bundle: Bundle, precision: InferencePrecision | None = None
    ) -> None:
        """Measure how good a bundle is."""
        figures = self.plan.results(f"validate-{name}")

        def work() -> None:
            assert self.dataset is not None
            measured = validate(bundle, self.dataset, options=self._in(precision), title=name)
            _write(figures, measured.as_json())

        before = self.ledger.fresh.get(f"validate {name}", False)
        self._step(f"validate {name}", self._validation_inputs(bundle, precision), [figures], work)
        self.ledger.fresh[f"validate {name}"] |= before

    def benchmark(self, made: tuple[Bundle, ...]) -> None:
        """Measure how fast all bundles are, beside each other."""
        plan, here = self.plan, this_machine()
        assert self.dataset is not None
        images = [picture.path for picture in self.dataset.pictures]
        inputs = {
            "bundles": " ".join(bundle.digest for bundle in made),
            "images": self.dataset.digest,
            "how": f"{plan.seconds} s in {plan.rounds} rounds, {plan.options}, benchmark_app {plan.compare}",
            "machine": hashlib.sha256(msgspec.json.encode(here)).hexdigest(),
        }

        def work() -> None:
            frames, what = frames_from(images, made[0])
            targets = [(bundle, plan.options) for bundle in made]
            if self.measures_bf16:
                targets.insert(1, (made[0], self._in("bf16")))
            figures = benchmark(
                targets, frames, seconds=plan.seconds, rounds=plan.rounds, compare=plan.compare
            )
            _write(plan.results("benchmark"), {"machine": here, "frames": what, "benchmarks": figures})

        self._step("benchmark", inputs, [plan.results("benchmark")], work)

    def report(self, made: dict[str, Bundle]) -> tuple[Path, ...]:
        """Everything on one page; gives the result files."""
        plan = self.plan
        assert self.dataset is not None
        names = ["benchmark", *(f"validate-{name}" for name in (*made, BF16))]
        names += [f"quantize-{mode}" for mode in plan.modes]
        results = tuple(path for name in names if (path := plan.results(name)).exists())
        inputs = {path.stem: checksum_of(path, "sha256") for path in results}
        pages = [plan.output / "report.html", plan.output / "report.md"]
        images = [picture.path for picture in self.dataset.pictures]
        self._step("report", inputs, pages, lambda: write_report(results, pages[0], images))
        return results


def _labels_digest(labels: str | None) -> str:
    """Of the file with the labels; nothing where they are a known set or the model's own."""
    return checksum_of(Path(labels), "sha256") if labels and Path(labels).is_file() else ""


def _write(path: Path, value: Any) -> None:
    write_whole(path, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
