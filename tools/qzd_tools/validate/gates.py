"""Gates on what was measured: a floor, and what may be lost against a baseline."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qzd_ext.errors import DataError, GateError
from qzd_tools.data.coco import Dataset
from qzd_tools.validate.bootstrap import Interval
from qzd_tools.validate.run import Validation
from qzd_tools.validate.scoring import ClassScore

__all__ = ["Comparison", "check_agreement", "check_baseline", "check_drop", "check_floor", "compare"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What changed from a baseline.

    Attributes
    ----------
    drop : Interval
        By which the main figure fell; negative if it rose.
    changes : dict of str to Interval
        Of mAP and AP50, or of top-1 and top-5.
    agreement : Interval
        With what the baseline found in the same images; NaN if it found nothing sure.
    classes : list of (ClassScore, float)
        The baseline's classes with their change in `ap` or `top1`, worst first.
    pictures : list of (str, int, int)
        File, objects that the baseline found, objects found now; those that lost, worst first.
    """

    drop: Interval
    changes: dict[str, Interval]
    agreement: Interval
    classes: list[tuple[ClassScore, float]]
    pictures: list[tuple[str, int, int]]


def compare(validation: Validation, baseline: Validation, dataset: Dataset) -> Comparison:
    """Compare with a baseline that was measured on the same dataset.

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
    intervals = validation.change_from(baseline)
    change = next(iter(intervals.values()))
    return Comparison(
        Interval(validation.drop_from(baseline), change.error, change.images),
        intervals,
        validation.agreement_with(baseline),
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
            fix="validate it by itself, and look at how it was converted: input, head and labels",
        )


def check_drop(comparison: Comparison, limit: float, certainty: float | None = None) -> None:
    """Raise GateError if the main figure fell by more than a limit, with the classes that lost most.

    Parameters
    ----------
    comparison : Comparison
    limit : float
    certainty : float, optional
        With which the true drop must be within the limit, 0..1. Without it, the measured drop is compared.
    """
    drop = comparison.drop
    if drop.value > limit:
        changes = comparison.classes[:8]
        worst = [f"{c.label} {change:+.3f} ({c.instances})" for c, change in changes if change < 0]
        raise GateError(
            f"accuracy fell by {drop.value:.4f}; classes that lost most (instances): {', '.join(worst)}",
            wanted=f"at most {limit:.4f}",
            fix="pass more calibration images, validation data and --max-drop, or another --mode",
        )
    if certainty is not None:
        _check_certain("accuracy fell", drop, limit, certainty)


def check_agreement(agreement: Interval, limit: float, certainty: float | None = None) -> None:
    """Raise GateError if two models disagree by more than a limit; `certainty` is as for `check_drop`.

    Raises
    ------
    DataError
        The baseline found nothing to agree with.
    """
    if math.isnan(agreement.value):
        raise DataError(
            f"the baseline finds nothing on {agreement.images} images, so there is nothing to agree with",
            wanted="images that show what the model detects",
        )
    disagreement = Interval(1 - agreement.value, agreement.error, agreement.images)
    if disagreement.value > limit:
        raise GateError(
            f"the models disagree by {disagreement.value:.4f} on {agreement.images} images",
            wanted=f"at most {limit:.4f}",
            fix="pass more calibration images, leave more layers in float, or choose another --mode",
        )
    if certainty is not None:
        _check_certain("the models disagree", disagreement, limit, certainty)


def _check_certain(what: str, measured: Interval, limit: float, certainty: float) -> None:
    bound = measured.upper(certainty)
    if bound <= limit:
        return
    needed = measured.images_needed(limit, certainty)
    more = "" if needed is None else f"measure on some {needed} images; "
    raise GateError(
        f"{what} by {measured.value:.4f} on {measured.images} images, which leaves {bound:.4f} possible",
        wanted=f"at most {limit:.4f} with a certainty of {certainty:g}",
        fix=f"{more}or accept less certainty",
    )
