"""How good a bundle is on a dataset, measured through the very `Detector` that the daemon serves with."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from qzd_ext.bundle import Bundle
from qzd_ext.errors import DataError, UsageError
from qzd_ext.manifest import Accuracy, Manifest, Thresholds
from qzd_ext.runner import RunOptions
from qzd_tools.data.coco import BoxDataset, ClassDataset, Dataset, Picture
from qzd_tools.validate.agreement import agreement
from qzd_tools.validate.bootstrap import Interval, difference
from qzd_tools.validate.dask import predict_on_cluster
from qzd_tools.validate.predict import Predictions, predict
from qzd_tools.validate.scoring import Categories, Score, match_categories, score_boxes, score_classes

__all__ = [
    "CONFIDENCE",
    "MAX_DETECTIONS",
    "Validation",
    "agree",
    "judge_for",
    "validate",
    "validation_thresholds",
    "wrong_kind",
]

CONFIDENCE = 0.001
MAX_DETECTIONS = 300
IOU = 0.65
"""What plain NMS is validated with where no other value is asked for."""


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
    precision : str
        What the device computed in where the graph is not quantized: f32, f16 or bf16.
    thresholds : Thresholds
    seconds : float
        For reading, inference and decoding; without the judging.
    note : str
        What of the dataset or model was left out; may be empty.
    found : list of Detections or Classes
        By picture.
    """

    bundle: Bundle
    score: Score
    images: int
    dataset: str
    device: str
    precision: str
    thresholds: Thresholds
    seconds: float
    note: str
    found: Predictions

    def accuracy(self, baseline: Validation | None = None) -> Accuracy:
        """Make the entry of a manifest's `[[accuracy]]`."""
        return Accuracy(
            dataset=self.dataset,
            images=self.images,
            device=self.device,
            metrics=_known(self.score),
            thresholds=self.thresholds,
            baseline=_known(baseline.score) if baseline else {},
            change={name: (one.low, one.high) for name, one in self.change_from(baseline).items()},
            agreement=self._agreement_record(baseline),
            inference_precision=self.precision,
        )

    def change_from(self, baseline: Validation | None) -> dict[str, Interval]:
        """Give the change of the two main figures from a baseline's on the same images; empty without one."""
        if baseline is None:
            return {}
        names = ("map", "map50") if "map" in self.score.metrics else ("top1", "top5")
        return dict(zip(names, difference(self.score.sample, baseline.score.sample), strict=False))

    def agreement_with(self, baseline: Validation) -> Interval:
        """Compare with what a baseline found in the same images; NaN if it has other labels."""
        ours, theirs = self.bundle.manifest, baseline.bundle.manifest
        if ours.labels.names != theirs.labels.names:
            return Interval(math.nan, math.nan, self.images)
        return agreement(self.found, baseline.found, ours)

    def _agreement_record(self, baseline: Validation | None) -> dict[str, float]:
        if baseline is None:
            return {}
        found = self.agreement_with(baseline)
        return {} if math.isnan(found.value) else {"value": found.value, "error": found.error}

    def drop_from(self, baseline: Validation) -> float:
        """By which the main figure fell; rounded, since 0.9 - 0.89 is a little more than 0.01."""
        return round(baseline.score.main - self.score.main, 9)

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` writes."""
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
            "inference_precision": self.precision,
            "thresholds": msgspec.to_builtins(self.thresholds),
            "seconds": self.seconds,
            "note": self.note,
        }


def _known(score: Score) -> dict[str, float]:
    return {name: value for name, value in score.metrics.items() if value is not None}


def validation_thresholds(
    manifest: Manifest,
    confidence: float = CONFIDENCE,
    iou: float | None = None,
    max_detections: int = MAX_DETECTIONS,
) -> Thresholds:
    """Choose the thresholds to judge with: low confidence, every class, the bundle's kind of NMS.

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
    found, ran = predict(*work) if scheduler is None else predict_on_cluster(scheduler, *work)
    seconds = time.perf_counter() - begin
    score = judge(found)
    return Validation(bundle, score, len(found), dataset.digest, *ran, thresholds, seconds, note, found)


def agree(
    bundle: Bundle, baseline: Bundle, images: Sequence[Path], options: RunOptions = RunOptions()
) -> Interval:
    """Run two bundles over images without labels and compare what they find.

    Raises
    ------
    DataError
        They have other labels, or an image cannot be read.
    DeviceError, ModelError
        A model cannot be run.
    """
    if bundle.manifest.labels.names != baseline.manifest.labels.names:
        raise DataError(
            f"{bundle.path} and {baseline.path} have other labels",
            wanted="two bundles of one model, with the same labels in the same order",
        )
    pictures = [Picture(path, 0) for path in images]
    found, reference = (
        predict(one, pictures, validation_thresholds(one.manifest), options, one.manifest.name)[0]
        for one in (bundle, baseline)
    )
    return agreement(found, reference, bundle.manifest)


def judge_for(bundle: Bundle, dataset: Dataset) -> tuple[Callable[[list[Any]], Score], str]:
    """Return what turns predictions into a score, and what is to be said of it.

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
            f"{dataset.source}: no object of a class that the model knows, except crowds",
            wanted="annotations to judge by",
            fix="name annotations that have some; those of a test set are often withheld",
        )
