"""Gates on what was measured: a floor, and what may be lost against a baseline."""

from __future__ import annotations

from dataclasses import dataclass

from qzd_ext.errors import DataError, GateError
from qzd_tools.data.coco import Dataset
from qzd_tools.validate.run import Validation
from qzd_tools.validate.scoring import ClassScore

__all__ = ["Comparison", "check_baseline", "check_drop", "check_floor", "compare"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What changed from a baseline.

    Attributes
    ----------
    drop : float
        By which the main figure fell; negative where it rose.
    classes : list of (ClassScore, float)
        The baseline's classes with their change in `ap` or `top1`, worst first.
    pictures : list of (str, int, int)
        File, objects that the baseline found, objects found now; those that lost, worst first.
    """

    drop: float
    classes: list[tuple[ClassScore, float]]
    pictures: list[tuple[str, int, int]]


def compare(validation: Validation, baseline: Validation, dataset: Dataset) -> Comparison:
    """What changed from a baseline that was measured on the same dataset.

    Raises
    ------
    DataError
        The two were judged on other classes.
    """
    ours, theirs = validation.score, baseline.score
    if [c.category_id for c in ours.classes] != [c.category_id for c in theirs.classes]:
        raise DataError(
            f"{validation.bundle.path} and {baseline.bundle.path} know other classes of the dataset",
            wanted="two bundles of one model",
        )
    key = "ap" if "map" in ours.metrics else "top1"
    pairs = zip(ours.classes, theirs.classes, strict=True)
    changes = [(b, (a.metrics[key] or 0) - (b.metrics[key] or 0)) for a, b in pairs if b.instances]
    counts = zip(dataset.pictures, theirs.found, ours.found, strict=True)
    lost = [(p.path.name, before, now) for p, before, now in counts if now < before]
    return Comparison(
        validation.drop_from(baseline),
        sorted(changes, key=lambda change: change[1]),
        sorted(lost, key=lambda picture: picture[2] - picture[1]),
    )


def check_floor(validation: Validation, floor: float) -> None:
    """Raise GateError where the main figure is below a floor."""
    if not validation.score.main >= floor:
        raise GateError(
            f"{validation.bundle.path}: {validation.score.main:.4f} on {validation.images} images",
            wanted=f"at least {floor:.4f}",
        )


def check_baseline(baseline: Validation) -> None:
    """Raise DataError where a baseline finds nothing: none can fall below it, and every gate would hold."""
    if not baseline.score.main > 0:
        raise DataError(
            f"{baseline.bundle.path}: nothing that it finds on {baseline.images} images is right",
            wanted="a baseline that something can be lost from, for --max-drop",
            fix="validate it alone, and look at how it was converted: input, head and labels",
        )


def check_drop(comparison: Comparison, limit: float) -> None:
    """Raise GateError where the main figure fell by more than a limit, with the classes that lost most."""
    if comparison.drop <= limit:
        return
    worst = [f"{c.label} {change:+.3f} ({c.instances})" for c, change in comparison.classes[:8] if change < 0]
    raise GateError(
        f"accuracy fell by {comparison.drop:.4f}; classes that lost most (instances): {', '.join(worst)}",
        wanted=f"at most {limit:.4f}",
        fix="pass more calibration images, validation data and --max-drop, or another --mode",
    )
