"""Predictions and ground truth into figures: pycocotools for boxes, top-1 and top-5 for classes."""

from __future__ import annotations

import contextlib
import gc
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qzd_ext.detections import Classes, Detections
from qzd_ext.errors import DataError
from qzd_ext.manifest import Labels
from qzd_tools.data.coco import BoxDataset, ClassDataset, normalized
from qzd_tools.validate.bootstrap import ClassSample, Sample, matches_of

__all__ = ["Categories", "ClassScore", "Score", "match_categories", "score_boxes", "score_classes"]

STATISTICS = (
    *("map", "map50", "map75", "map_small", "map_medium", "map_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)
"""What COCOeval.stats holds, in its order."""


@dataclass(frozen=True, slots=True)
class Categories:
    """Which dataset category each of the model's classes is.

    Attributes
    ----------
    by_class : tuple of int or None
        Category id by class id; None where the dataset has no such category.
    note : str
        What is left out, as a sentence; empty when every label has its category and the other way round.
    """

    by_class: tuple[int | None, ...]
    note: str = ""

    @property
    def evaluated(self) -> list[int]:
        """The category ids that the model can be judged on, sorted."""
        return sorted(c for c in self.by_class if c is not None)


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class: its `ap` and `ap50`, or its `top1`; None where the dataset has no instance of it.

    Crowds are no instances: a class is not judged by them.
    """

    label: str
    category_id: int
    instances: int
    metrics: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Score:
    """How good predictions are.

    Attributes
    ----------
    metrics : dict of str to float or None
        `map` (IoU 0.50:0.95), `map50`, `map75`, by size, `ar1` ... for boxes; `top1` and `top5` for
        classes. None where the dataset has nothing to judge it by.
    classes : tuple of ClassScore
    found : tuple of int
        By picture: objects found at IoU 0.5 with a score that is published, or 1 where top-1 is right.
    sample : BoxSample or ClassSample
        What `bootstrap` resamples; its classes are those of `classes`.
    curve : tuple of float
        Precision at IoU 0.5 for recalls 0, 0.01, ... 1, the mean of the classes; empty for a classifier.
    """

    metrics: dict[str, float | None]
    classes: tuple[ClassScore, ...]
    found: tuple[int, ...]
    sample: Sample
    curve: tuple[float, ...] = ()

    @property
    def main(self) -> float:
        """The figure that gates and gains are measured by: `map` or `top1`."""
        return self.metrics["map" if "map" in self.metrics else "top1"] or 0.0


def match_categories(labels: Labels, categories: dict[int, str]) -> Categories:
    """Find each label's category by its name.

    Empty names stand for indices that the model's dataset does not use, and are ignored. A model may know
    fewer classes than the dataset, or more; that is said. Where both have names that the other lacks,
    they speak of different things.

    Raises
    ------
    DataError
        The names contradict each other; the message has both lists.
    """
    by_name = {normalized(name): number for number, name in categories.items()}
    names = [normalized(name) for name in labels.names]
    doubled = sorted({name for name in names if name and names.count(name) > 1})
    if doubled:
        raise DataError(
            f"the model has two classes of the same name: {', '.join(doubled)}",
            wanted="labels that differ, since categories are found by name",
            fix="convert the model again with its labels: --labels FILE",
        )
    foreign = [labels.names[i] for i, name in enumerate(names) if name and name not in by_name]
    missing = [categories[by_name[name]] for name in by_name if name not in names]
    if len(foreign) == sum(map(bool, names)) or (foreign and missing):
        raise DataError(
            f"labels of the model that the dataset does not have: {_listed(foreign)}; "
            f"categories of the dataset that the model does not have: {_listed(missing)}",
            wanted="the same names in both, or one a part of the other",
            fix="use the dataset that the model was made for, or convert it with its labels: --labels FILE",
        )
    note = ""
    if missing:
        note = f"the model knows {len(by_name) - len(missing)} of the dataset's {len(by_name)} categories"
        note += "; it is judged on those"
    elif foreign:
        note = f"left out, since the dataset does not have them: {_listed(foreign)}"
    return Categories(tuple(by_name.get(name) if name else None for name in names), note)


def _listed(names: Sequence[str], limit: int = 20) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + rest


def score_boxes(
    dataset: BoxDataset, categories: Categories, found: Sequence[Detections], confidence: float
) -> Score:
    """Judge boxes with pycocotools.

    Parameters
    ----------
    dataset : BoxDataset
    categories : Categories
        From `match_categories`; classes without a category are left out.
    found : sequence of Detections
        One for each of `dataset.pictures`, in their order, boxes in pixels of the picture.
    confidence : float
        From which score on a box is published; only for `Score.found`.
    """
    from qzd_tools.validate.coco_eval import Evaluation

    ids = [picture.truth for picture in dataset.pictures]
    with contextlib.redirect_stdout(io.StringIO()), _without_collector():  # pycocotools prints what it does
        truth = _coco(dataset, ids, _truth_entries(dataset))
        evaluation = Evaluation(truth, _coco(dataset, ids, _found_entries(ids, categories, found)))
        evaluation.params.catIds = categories.evaluated
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = {name: _or_none(value) for name, value in zip(STATISTICS, evaluation.stats, strict=True)}
    found_by_picture = _objects_found(evaluation, confidence)
    classes = _class_scores(dataset, evaluation)
    return Score(figures, classes, found_by_picture, matches_of(evaluation), _curve(evaluation))


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Switch garbage collection off, which takes a tenth of the time: dicts of boxes have no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _coco(dataset: BoxDataset, ids: list[int], entries: list[dict[str, Any]]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    categories = [{"id": number, "name": name} for number, name in dataset.categories.items()]
    coco.dataset = {"images": [{"id": i} for i in ids], "annotations": entries, "categories": categories}
    coco.createIndex()
    return coco


def _truth_entries(dataset: BoxDataset) -> list[dict[str, Any]]:
    # Numbered anew from 1: COCOeval takes a match with id 0 for no match.
    return [
        {
            "id": number,
            "image_id": a.image_id,
            "category_id": a.category_id,
            "bbox": list(a.bbox),
            "area": a.bbox[2] * a.bbox[3] if a.area is None else a.area,
            "iscrowd": int(a.iscrowd),
        }
        for number, a in enumerate(dataset.annotations, 1)
    ]


def _found_entries(
    ids: list[int], categories: Categories, found: Sequence[Detections]
) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for image_id, one in zip(ids, found, strict=True):
        corners = one.boxes.tolist()
        for (x0, y0, x1, y1), score, number in zip(
            corners, one.scores.tolist(), one.class_ids.tolist(), strict=True
        ):
            category = categories.by_class[number]
            if category is None:
                continue
            box = [x0, y0, x1 - x0, y1 - y0]
            entries.append(
                {
                    "id": len(entries) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": box,
                    "score": score,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    return entries


def _or_none(value: float) -> float | None:
    """COCOeval says -1 where there is no instance to judge by."""
    return None if value < 0 else float(value)


def _class_scores(dataset: BoxDataset, evaluation: Any) -> tuple[ClassScore, ...]:
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class; all sizes, 100 boxes
    counts = Counter(a.category_id for a in dataset.annotations if not a.iscrowd)
    scores = []
    for index, category in enumerate(evaluation.params.catIds):
        metrics = {"ap": _mean(precision[:, :, index]), "ap50": _mean(precision[0, :, index])}
        scores.append(ClassScore(dataset.categories[category], int(category), counts[category], metrics))
    return tuple(scores)


def _mean(precision: Any) -> float | None:
    known = precision[precision > -1]
    return float(np.mean(known)) if known.size else None


def _curve(evaluation: Any) -> tuple[float, ...]:
    precision = evaluation.eval["precision"][0, :, :, 0, -1]  # recall, class; IoU 0.5, all sizes, 100 boxes
    known = precision[:, (precision > -1).all(axis=0)]
    return tuple(known.mean(axis=1).tolist()) if known.size else ()


def _objects_found(evaluation: Any, confidence: float) -> tuple[int, ...]:
    """By image: objects with a match at IoU 0.5 whose score is at least `confidence`, of all sizes."""
    images = len(evaluation.params.imgIds)
    sizes = len(evaluation.params.areaRng)
    found = [0] * images
    for index, entry in enumerate(evaluation.evalImgs):
        if entry is None or (index // images) % sizes != 0:
            continue
        scores = dict(zip(entry["dtIds"], entry["dtScores"], strict=True))
        matches = entry["gtMatches"][0][~entry["gtIgnore"].astype(bool)]
        found[index % images] += sum(scores.get(int(m), 0.0) >= confidence for m in matches if m > 0)
    return tuple(found)


def score_classes(dataset: ClassDataset, found: Sequence[Classes]) -> Score:
    """Judge classes: the share of pictures whose class is the best one, or among the best five.

    Parameters
    ----------
    found : sequence of Classes
        One for each of `dataset.pictures`, in their order, with the best five at least.
    """
    truth = [picture.truth for picture in dataset.pictures]
    ranks = [one.class_ids[:5].tolist() for one in found]
    first = [int(r[:1] == [t]) for r, t in zip(ranks, truth, strict=True)]
    five = [t in r for r, t in zip(ranks, truth, strict=True)]
    scores = []
    for number in sorted(set(truth)):
        hits = [hit for hit, t in zip(first, truth, strict=True) if t == number]
        scores.append(ClassScore(dataset.names[number], number, len(hits), {"top1": float(np.mean(hits))}))
    figures: dict[str, float | None] = {"top1": float(np.mean(first)), "top5": float(np.mean(five))}
    sample = ClassSample(np.array(first, bool), np.array(five, bool))
    return Score(figures, tuple(scores), tuple(first), sample)
