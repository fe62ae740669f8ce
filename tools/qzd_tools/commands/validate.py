"""`qzd-tools validate`: measure a bundle on a dataset."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qzd_ext.errors import UsageError
from qzd_ext.options import Finite
from qzd_tools.commands import BUNDLE, DIRECTORY, FILE, json_option, precision_option, say, write_json

if TYPE_CHECKING:
    from qzd_ext.manifest import Manifest
    from qzd_tools.data.coco import Dataset
    from qzd_tools.validate.bootstrap import Interval
    from qzd_tools.validate.gates import Comparison
    from qzd_tools.validate.run import Validation

__all__ = ["command", "dataset_for"]

FRACTION = Finite(0, 1)
WORST_CLASSES = 5  # shown to a person; all of them go into the JSON


@click.command()
@click.argument("bundle", type=BUNDLE)
@click.option("--annotations", type=FILE, help="COCO annotations, for a detector.")
@click.option(
    "--imagenet",
    type=click.Path(path_type=Path),
    help="For a classifier: a list with `FILE CLASS` on each line, or a directory with a folder a class.",
)
@click.option("--images", type=DIRECTORY, help="Where the images lie.  [default: images/ beside the list]")
@click.option("--confidence", type=FRACTION, default=0.001, show_default=True, help="Lowest score judged.")
@click.option("--iou", type=FRACTION, help="Overlap that NMS suppresses from.  [default: 0.65 for plain NMS]")
@click.option("--max-detections", type=click.IntRange(1, 2**31 - 1), default=300, show_default=True)
@click.option("--device", default="CPU", show_default=True, help="As OpenVINO names it.")
@precision_option
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: all that may be used]")
@click.option("--scheduler", help="A Dask scheduler whose workers run the bundle, such as tcp://host:8786.")
@click.option("--baseline", type=BUNDLE, help="Compare with this bundle, class by class.")
@click.option("--fail-under", type=FRACTION, help="Exit with 1 where mAP or top-1 is below this.")
@click.option("--max-drop", type=FRACTION, help="Exit with 1 where it is below the baseline's by more.")
@click.option("--max-disagreement", type=FRACTION, help="Fail if it disagrees with the baseline by more.")
@click.option("--certainty", type=Finite(0.5, 0.9999), help="Let gates hold only with this certainty.")
@click.option("--record", "recorded", is_flag=True, help="Write the figures into the bundle.")
@json_option
def command(
    bundle: Path,
    annotations: Path | None,
    imagenet: Path | None,
    images: Path | None,
    confidence: float,
    iou: float | None,
    max_detections: int,
    device: str,
    precision: Any,
    threads: int | None,
    scheduler: str | None,
    baseline: Path | None,
    fail_under: float | None,
    max_drop: float | None,
    max_disagreement: float | None,
    certainty: float | None,
    recorded: bool,
    json_file: Path | None,
) -> None:
    """Measure BUNDLE on a dataset, through the code that the daemon runs.

    Boxes are judged by pycocotools: mAP, by IoU, size and class. Classes are judged by top-1 and top-5.
    With --baseline, differences have their intervals. --images and --baseline without labels measure how well
    BUNDLE agrees with the baseline.
    """
    from qzd_ext import bundle as bundles
    from qzd_ext.runner import RunOptions
    from qzd_tools.data.images import list_images
    from qzd_tools.validate import gates
    from qzd_tools.validate import run as validation

    _check_gates(baseline, max_drop, max_disagreement, certainty)
    ours = bundles.read(bundle)
    theirs = bundles.read(baseline) if baseline else None
    options = RunOptions(device=device, threads=threads, precision=precision)
    if theirs is not None and images is not None and annotations is None and imagenet is None:
        if max_drop is not None or fail_under is not None or recorded:
            raise UsageError("a gate on accuracy, or --record, without labels", fix="add --annotations FILE")
        found = validation.agree(ours, theirs, list_images(images), options)
        say(_describe_agreement(found))
        digests = {"bundle": ours.digest, "baseline": theirs.digest}
        write_json(json_file, {"agreement": _interval(found)} | digests)
        if max_disagreement is not None:
            gates.check_agreement(found, max_disagreement, certainty)
        return
    dataset = dataset_for(ours.manifest, annotations, imagenet, images)
    if theirs is not None:
        validation.judge_for(theirs, dataset)  # one that does not fit is refused before the work

    def measure(one: bundles.Bundle) -> Validation:
        thresholds = validation.validation_thresholds(one.manifest, confidence, iou, max_detections)
        return validation.validate(one, dataset, thresholds, options, scheduler=scheduler)

    result = measure(ours)
    say(_describe(result))
    document = result.as_json()
    comparison = None
    if theirs is not None:
        before = measure(theirs)
        comparison = gates.compare(result, before, dataset)
        say(_describe_comparison(before, comparison))
        document["baseline"] = before.as_json()
        document["drop"] = comparison.drop.value
        document["changes"] = {name: _interval(one) for name, one in comparison.changes.items()}
        document["agreement"] = _interval(comparison.agreement)
        document["lost"] = [{"file": f, "before": b, "now": n} for f, b, n in comparison.pictures]
    try:
        if recorded:
            document["bundle"]["digest"] = _record(result)
    finally:  # what was measured is not lost with a bundle that may not be written
        write_json(json_file, document)
    if fail_under is not None:
        gates.check_floor(result, fail_under)
    if comparison is not None and max_drop is not None:
        gates.check_baseline(before)
        gates.check_drop(comparison, max_drop, certainty)
    if comparison is not None and max_disagreement is not None:
        gates.check_agreement(comparison.agreement, max_disagreement, certainty)


def _check_gates(
    baseline: Path | None, max_drop: float | None, max_disagreement: float | None, certainty: float | None
) -> None:
    given = {"--max-drop": max_drop, "--max-disagreement": max_disagreement}
    gates = [option for option, value in given.items() if value is not None]
    if gates and baseline is None:
        raise UsageError(f"{gates[0]} without --baseline", fix="name the bundle to compare with")
    if certainty is not None and not gates:
        raise UsageError("--certainty without a gate", fix="add --max-drop or --max-disagreement")


def _interval(one: Interval) -> dict[str, float | int | None]:
    """Write an interval for JSON, which has no NaN."""
    figures = {"value": one.value, "low": one.low, "high": one.high, "error": one.error}
    return {name: None if math.isnan(v) else v for name, v in figures.items()} | {"images": one.images}


def _record(result: Validation) -> str:
    """Write the figures into the bundle; its new digest."""
    from qzd_tools.validate.record import record

    bundle = record(result.bundle, result.accuracy())
    say(f"recorded in {bundle.path}, whose digest is now {bundle.digest}")
    return bundle.digest


def dataset_for(
    manifest: Manifest, annotations: Path | None, imagenet: Path | None, images: Path | None
) -> Dataset:
    """Read the dataset that the options name, of the kind that the model needs.

    Raises
    ------
    UsageError
        Both kinds are named, or none, or the one that is not for this model.
    DataError
        It cannot be read.
    """
    from qzd_tools.data.coco import read_coco
    from qzd_tools.data.imagenet import read_imagenet
    from qzd_tools.validate.run import wrong_kind

    if annotations is None and imagenet is None:
        raise UsageError(
            "no dataset to judge by",
            wanted="one of --annotations FILE (detection) and --imagenet LABELS (classification)",
        )
    if annotations is not None and imagenet is not None:
        raise UsageError("COCO annotations and an ImageNet list", fix="leave out what is not for this model")
    if annotations is not None and manifest.task == "detection":
        return read_coco(annotations, images)
    if imagenet is not None and manifest.task == "classification":
        return read_imagenet(imagenet, images, manifest.labels.names)
    raise wrong_kind(manifest, annotations or imagenet)


def _describe(result: Validation) -> str:
    """Write the figures as text: one per line, then the worst classes."""
    manifest, score = result.bundle.manifest, result.score
    limits = result.thresholds
    rate = f"{result.images} images, {result.images / result.seconds:.1f} per second"
    lines = [f"{manifest.name} {manifest.precision} on {result.device} in {result.precision}: {rate}"]
    if manifest.task == "detection":
        most = f"at most {limits.max_detections} boxes per image"
        lines.append(f"  confidence {limits.confidence:g}, NMS by {limits.nms} {limits.iou:g}, {most}")
    if result.note:
        lines.append(f"  {result.note}")
    lines += [f"  {name:<10} {_figure(value)}" for name, value in score.metrics.items()]
    known = [(c.label, next(iter(c.metrics.values())) or 0.0) for c in score.classes if c.instances]
    known.sort(key=lambda row: row[1])
    lines.append(f"  the worst of {len(known)} classes with instances (all of them: --json FILE)")
    lines += [f"    {label:<16} {_figure(value)}" for label, value in known[:WORST_CLASSES]]
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _describe_agreement(found: Interval) -> str:
    if math.isnan(found.value):
        return f"  the baseline finds nothing sure on {found.images} images to agree with"
    how = f"{found.value:.4f}, standard error {found.error:.4f}"
    return f"  agreement with what the baseline finds on {found.images} images: {how}"


def _describe_comparison(before: Validation, comparison: Comparison, limit: int = 10) -> str:
    drop = f"drop {comparison.drop.value:+.4f}"
    lines = [f"baseline {before.bundle.manifest.name}: {before.score.main:.4f}, {drop}"]
    for name, found in comparison.changes.items():
        lines.append(f"  {name:<10} {found.value:+.4f}, 95 % from {found.low:+.4f} to {found.high:+.4f}")
    lines.append(_describe_agreement(comparison.agreement))
    for one, change in comparison.classes[:limit]:
        lines.append(f"  {one.label:<20} {change:+.4f}  ({one.instances} instances)")
    if comparison.pictures:
        lines.append("images that lost most (objects found before, now):")
        lines += [f"  {file:<28} {was:3d} -> {now:3d}" for file, was, now in comparison.pictures[:limit]]
    return "\n".join(lines)
