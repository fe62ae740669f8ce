"""How good a bundle is on a dataset, measured through the very `Detector` that the daemon serves with."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from qzd_ext.bundle import Bundle
from qzd_ext.detections import Classes, Detections
from qzd_ext.detector import Detector, Result
from qzd_ext.errors import DataError, GateError, QzdError, UsageError
from qzd_ext.geometry import Frame
from qzd_ext.manifest import Accuracy, Manifest, Thresholds
from qzd_ext.runner import RunOptions
from qzd_tools.data.coco import BoxDataset, ClassDataset, Dataset, Picture
from qzd_tools.data.images import read_image
from qzd_tools.progress import progress
from qzd_tools.validate.dask import predict_on_cluster
from qzd_tools.validate.scoring import (
    Categories,
    ClassScore,
    Score,
    match_categories,
    score_boxes,
    score_classes,
)

__all__ = [
    "CONFIDENCE",
    "MAX_DETECTIONS",
    "Comparison",
    "Validation",
    "check_baseline",
    "check_drop",
    "check_floor",
    "compare",
    "judge_for",
    "predict",
    "validate",
    "validation_thresholds",
    "wrong_kind",
]

CONFIDENCE = 0.001
MAX_DETECTIONS = 300
IOU = 0.65
"""What plain NMS is validated with where no other value is asked for."""
TOP = 5


@dataclass(frozen=True, slots=True)
class Validation:
    """What was measured, on what, and how.

    Attributes
    ----------
    bundle : Bundle
    score : Score
    images : int
    dataset : str
        Digest of the annotations and images.
    device : str
        The devices that really executed, with commas between.
    thresholds : Thresholds
    seconds : float
        For reading, inference and decoding; without the judging.
    note : str
        What of the dataset or model was left out; may be empty.
    """

    bundle: Bundle
    score: Score
    images: int
    dataset: str
    device: str
    thresholds: Thresholds
    seconds: float
    note: str

    def accuracy(self, baseline: Validation | None = None) -> Accuracy:
        """The entry of a manifest's `[[accuracy]]`."""
        return Accuracy(
            dataset=self.dataset,
            images=self.images,
            device=self.device,
            metrics=_known(self.score),
            thresholds=self.thresholds,
            baseline=_known(baseline.score) if baseline else {},
        )

    def drop_from(self, baseline: Validation) -> float:
        """By which the main figure fell; rounded, since 0.9 - 0.89 is a little more than 0.01."""
        return round(baseline.score.main - self.score.main, 9)

    def as_json(self) -> dict[str, Any]:
        """What `--json` writes."""
        manifest = self.bundle.manifest
        bundle = {"name": manifest.name, "version": manifest.version, "digest": self.bundle.digest}
        return {
            "bundle": bundle | {"precision": manifest.precision, "path": str(self.bundle.path)},
            "metrics": self.score.metrics,
            "classes": [dataclasses.asdict(one) for one in self.score.classes],
            "curve": self.score.curve,
            "images": self.images,
            "dataset": self.dataset,
            "device": self.device,
            "thresholds": msgspec.to_builtins(self.thresholds),
            "seconds": self.seconds,
            "note": self.note,
        }


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


def _known(score: Score) -> dict[str, float]:
    return {name: value for name, value in score.metrics.items() if value is not None}


def validation_thresholds(
    manifest: Manifest,
    confidence: float = CONFIDENCE,
    iou: float | None = None,
    max_detections: int = MAX_DETECTIONS,
) -> Thresholds:
    """The thresholds to judge with: low confidence, every class of a candidate, the bundle's kind of NMS.

    `iou` is 0.65 for plain NMS where it is not given; a bundle with DIoU-NMS keeps its own, which that
    model was published with.
    """
    own = manifest.thresholds
    chosen = iou if iou is not None else (IOU if own.nms == "iou" else own.iou)
    if manifest.task == "classification":
        confidence = 0.0
    return msgspec.structs.replace(
        own, confidence=confidence, iou=chosen, max_detections=max_detections, multi_label=True
    )


def validate(
    bundle: Bundle,
    dataset: Dataset,
    thresholds: Thresholds | None = None,
    options: RunOptions = RunOptions(),
    *,
    title: str = "",
    scheduler: str | None = None,
) -> Validation:
    """Run a bundle over a dataset and judge what it finds.

    Parameters
    ----------
    bundle : Bundle
    dataset : Dataset
        Boxes for a detector, classes for a classifier.
    thresholds : Thresholds, optional
        Those of `validation_thresholds` by default.
    options : RunOptions
    title : str
        What the progress bar says; the bundle's name by default.
    scheduler : str, optional
        Address of a Dask scheduler whose workers run the bundle instead of this process.

    Raises
    ------
    UsageError
        The dataset is of the other kind.
    DataError
        The labels contradict the dataset's categories, there is no object to judge by, or an image cannot
        be read or has another size than its annotations.
    DeviceError, ModelError
        The model cannot be run.
    """
    thresholds = thresholds or validation_thresholds(bundle.manifest)
    judge, note = judge_for(bundle, dataset)
    begin = time.perf_counter()
    work = (bundle, dataset.pictures, thresholds, options, title or bundle.manifest.name)
    found, device = predict(*work) if scheduler is None else predict_on_cluster(scheduler, *work)
    seconds = time.perf_counter() - begin
    score = judge(found)
    return Validation(bundle, score, len(found), dataset.digest, device, thresholds, seconds, note)


def judge_for(bundle: Bundle, dataset: Dataset) -> tuple[Callable[[list[Any]], Score], str]:
    """What turns predictions into a score, and what is to be said of it.

    Raises
    ------
    UsageError, DataError
        The dataset does not fit the bundle, as `validate` says; found out before anything runs.
    """
    manifest = bundle.manifest
    if (manifest.task == "detection") != isinstance(dataset, BoxDataset):
        raise wrong_kind(manifest, dataset.source)
    if isinstance(dataset, ClassDataset):
        if manifest.labels.names != dataset.names:  # its classes are numbers of another model's labels
            raise DataError(
                f"{manifest.name} has other labels than the model that {dataset.source} was read for",
                wanted="two bundles of one model, with the same labels in the same order",
                fix="convert both with the same --labels",
            )
        return lambda found: score_classes(dataset, found), ""
    categories = match_categories(manifest.labels, dataset.categories)
    _check_objects(dataset, categories)
    confidence = manifest.thresholds.confidence
    return lambda found: score_boxes(dataset, categories, found, confidence), categories.note


def wrong_kind(manifest: Manifest, source: object) -> UsageError:
    """For a detector beside a classifier's images, or the other way round."""
    return UsageError(
        f"{manifest.name} is for {manifest.task}, {source} is not",
        fix="give a detector COCO annotations, a classifier a list of files with their classes",
    )


def _check_objects(dataset: BoxDataset, categories: Categories) -> None:
    """Without any object there is no figure, and a gate would hold whatever the model finds."""
    judged = set(categories.evaluated)
    if not any(a.category_id in judged and not a.iscrowd for a in dataset.annotations):
        raise DataError(
            f"{dataset.source}: no object of a class that the model knows, but for crowds",
            wanted="annotations to judge by",
            fix="name annotations that have some; those of a test set are often withheld",
        )


def _with_enough_classes(bundle: Bundle) -> Bundle:
    """The bundle, publishing at least the five classes that top-5 needs."""
    manifest = bundle.manifest
    if manifest.task != "classification" or manifest.head.top_k >= TOP:  # type: ignore[union-attr]
        return bundle
    head = msgspec.structs.replace(manifest.head, top_k=TOP)
    return dataclasses.replace(bundle, manifest=msgspec.structs.replace(manifest, head=head))


def predict(
    bundle: Bundle, pictures: Sequence[Picture], thresholds: Thresholds, options: RunOptions, title: str
) -> tuple[list[Detections | Classes], str]:
    """What is found in each picture, in the order of the pictures, and the devices that executed."""
    with Detector(_with_enough_classes(bundle), options, thresholds) as detector:
        return _predict(detector, pictures, title), ",".join(detector.devices)


def _predict(detector: Detector, pictures: Sequence[Picture], title: str) -> list[Detections | Classes]:
    """Pictures are read here while the device works on those before them; results come on other threads."""
    found: dict[int, Detections | Classes] = {}
    faults: list[QzdError] = []
    begin = time.perf_counter()
    with progress(title, len(pictures)) as step:

        def keep(index: int, outcome: Result | QzdError) -> None:
            if isinstance(outcome, QzdError):
                faults.append(outcome)
                return
            found[index] = outcome.found
            step(f"{len(found) / (time.perf_counter() - begin):.1f} images/s")

        for index, picture in enumerate(pictures):
            if faults:
                break
            detector.submit(_read(picture), functools.partial(keep, index))
        detector.drain()
    if faults:
        raise faults[0]
    return [found[index] for index in range(len(pictures))]


def _read(picture: Picture) -> Frame:
    """The picture, whose pixels must be those that its boxes count in: every figure would be wrong."""
    frame = read_image(picture.path)
    height, width = frame.shape[:2]
    if picture.size not in (None, (width, height)):
        wide, high = picture.size
        raise DataError(
            f"{picture.path}: it has {width}x{height} pixels, its annotations are for {wide}x{high}",
            wanted="boxes in the pixels of the file, as they are before an EXIF orientation is applied",
            fix="name the images that were annotated, or write them again with their orientation applied",
        )
    return frame


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
