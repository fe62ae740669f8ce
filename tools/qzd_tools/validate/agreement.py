"""Agreement of two models on images without labels: how well one finds what the other finds.

For detectors it is the mAP of one model's boxes against the other's own boxes that are sure enough to
publish. For classifiers it is the share of images with the same best class. It is far less noisy than a
difference of two accuracies: nothing depends on how good either model is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qzd_ext.detections import Classes, Detections
from qzd_ext.manifest import Manifest
from qzd_tools.data.coco import Annotation, BoxDataset, Picture
from qzd_tools.validate.bootstrap import ClassSample, Interval, interval
from qzd_tools.validate.predict import Predictions
from qzd_tools.validate.scoring import Categories, score_boxes

__all__ = ["SURE", "agreement"]

SURE = 0.3
"""Score from which on a box of the reference counts as an object."""


def agreement(found: Predictions, reference: Predictions, manifest: Manifest) -> Interval:
    """Compare what two models of the same classes found in the same images.

    Parameters
    ----------
    found : list of Detections or Classes
        By image, with the thresholds of `validation_thresholds`.
    reference : list of Detections or Classes
        What the other model found, most often the float one.
    manifest : Manifest
        Of either bundle.

    Returns
    -------
    Interval
        0..1; NaN if the reference has no sure box in any image.
    """
    if manifest.task == "classification":
        return _class_agreement(found, reference)
    boxes = [one for one in found if isinstance(one, Detections)]
    return _box_agreement(boxes, [one for one in reference if isinstance(one, Detections)], manifest)


def _class_agreement(found: Predictions, reference: Predictions) -> Interval:
    pairs = [
        (ours.class_ids, theirs.class_ids[0])
        for ours, theirs in zip(found, reference, strict=True)
        if isinstance(ours, Classes) and isinstance(theirs, Classes)
    ]
    first = np.array([ours[0] == best for ours, best in pairs], bool)
    five = np.array([best in ours[:5] for ours, best in pairs], bool)
    return interval(ClassSample(first, five))[0]


def _box_agreement(
    found: Sequence[Detections], reference: Sequence[Detections], manifest: Manifest
) -> Interval:
    pictures = tuple(Picture(Path(), number) for number in range(1, len(reference) + 1))
    count = len(manifest.labels.names)
    names = {number: str(number) for number in range(1, count + 1)}
    dataset = BoxDataset(Path(), pictures, names, tuple(_as_objects(reference)))
    score = score_boxes(dataset, Categories(tuple(names)), found, SURE)
    return interval(score.sample)[0]


def _as_objects(reference: Sequence[Detections]) -> list[Annotation]:
    """Turn the sure boxes into objects to find; image and category ids count from 1."""
    objects: list[Annotation] = []
    for image, one in enumerate(reference, 1):
        sure = one.scores >= SURE
        for (x0, y0, x1, y1), label in zip(
            one.boxes[sure].tolist(), one.class_ids[sure].tolist(), strict=True
        ):
            objects.append(Annotation(len(objects) + 1, image, label + 1, (x0, y0, x1 - x0, y1 - y0)))
    return objects
