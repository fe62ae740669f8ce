"""Confidence intervals of accuracy figures and of their differences, by a bootstrap over images.

Each replicate draws as many images as there are, with replacement, and computes the figures again from the
matches that COCOeval found. Matching happens within one image, so it is not repeated. A figure is that of
COCOeval on the images drawn, where equal scores within one image are in the order in which they came.

Two models are compared on the same draws, which cancels what easy and hard images do to both (Efron and
Tibshirani, 1993, chapter 8). Intervals are the measured figure and multiples of the bootstrap's standard
error on both sides. The percentiles of the replicates would lie too high for mAP, which rises when images
come twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BoxSample",
    "ClassMatches",
    "ClassSample",
    "Interval",
    "Sample",
    "difference",
    "draw_images",
    "interval",
    "matches_of",
]

REPLICATES = 1000
BLOCK = 128
"""Replicates that are computed at once, which keeps the arrays small."""
RECALLS = np.linspace(0.0, 1.0, 101)
"""COCOeval's recall thresholds, with their rounding."""

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and how far it may be from what more images would give.

    Attributes
    ----------
    value : float
        On the images that there are; NaN without anything to judge by.
    error : float
        Its standard error.
    images : int
    """

    value: float
    error: float
    images: int

    @property
    def low(self) -> float:
        """Lower end of the interval that holds the true figure with a probability of 95 %."""
        return self.value - NormalDist().inv_cdf(0.975) * self.error

    @property
    def high(self) -> float:
        """Upper end of that interval."""
        return self.value + NormalDist().inv_cdf(0.975) * self.error

    def upper(self, certainty: float) -> float:
        """Give the bound that the figure is below with this certainty, 0..1."""
        return self.value + NormalDist().inv_cdf(certainty) * self.error

    def images_needed(self, limit: float, certainty: float) -> int | None:
        """Estimate how many images decide that the figure is below a limit; None if it is not below it."""
        if not self.value < limit:
            return None
        width = self.upper(certainty) - self.value
        return math.ceil(self.images * max(width / (limit - self.value), 0.0) ** 2)


@dataclass(frozen=True, slots=True, eq=False)
class ClassMatches:
    """How the boxes of one class matched, best score first; ties are in the order of the images.

    Attributes
    ----------
    images : (n,) intp
        Index of each box's image.
    matched, ignored : (thresholds, n) bool
        By IoU threshold. An ignored box, as one on a crowd, counts neither way.
    objects : (images,) int64
        Objects to find, by image.
    """

    images: Ints
    matched: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    objects: Ints


@dataclass(frozen=True, slots=True, eq=False)
class BoxSample:
    """A detector's matches by class; `figures` are mAP, AP50 and the AP of each class."""

    classes: tuple[ClassMatches, ...]

    @property
    def images(self) -> int:
        """How many images were judged."""
        return len(self.classes[0].objects)

    def figures(self, weights: Ints) -> Floats:
        """Compute the figures of replicates.

        Parameters
        ----------
        weights : (replicates, images) int64
            How often each image was drawn.

        Returns
        -------
        (replicates, 2 + classes) float64
            mAP, AP50, then AP by class; NaN where there is no object to find.
        """
        blocks = [self._block(weights[i : i + BLOCK]) for i in range(0, len(weights), BLOCK)]
        return np.concatenate(blocks)

    def _block(self, weights: Ints) -> Floats:
        precisions = np.stack([_precisions(one, weights) for one in self.classes], axis=2)
        by_class = precisions.mean(axis=1)
        return np.column_stack([_known_mean(by_class), _known_mean(precisions[:, 0]), by_class])


@dataclass(frozen=True, slots=True, eq=False)
class ClassSample:
    """A classifier's hits; `figures` are top-1 and top-5.

    Attributes
    ----------
    first, five : (images,) bool
        Whether the true class is the best one, and among the best five.
    """

    first: NDArray[np.bool_]
    five: NDArray[np.bool_]

    @property
    def images(self) -> int:
        """How many images were judged."""
        return len(self.first)

    def figures(self, weights: Ints) -> Floats:
        """Compute top-1 and top-5 of replicates, (replicates, 2) float64; see `BoxSample.figures`."""
        hits = np.column_stack([self.first, self.five]).astype(np.int64)
        return np.asarray(weights @ hits / weights.sum(axis=1, keepdims=True), np.float64)


Sample = BoxSample | ClassSample


def matches_of(evaluation: Any) -> BoxSample:
    """Take what is resampled from a COCOeval that was evaluated: all sizes, at most 100 boxes per image."""
    images, sizes = len(evaluation.params.imgIds), len(evaluation.params.areaRng)
    entries, step = evaluation.evalImgs, images * sizes
    starts = range(0, len(evaluation.params.catIds) * step, step)
    thresholds = len(evaluation.params.iouThrs)
    return BoxSample(tuple(_matches(entries[start : start + images], thresholds) for start in starts))


def _matches(entries: Sequence[dict[str, Any] | None], thresholds: int) -> ClassMatches:
    """Join what COCOeval says of one class, image by image."""
    objects = np.zeros(len(entries), np.int64)
    images, scores = [np.zeros(0, np.intp)], [np.zeros(0)]
    matched, ignored = [np.zeros((thresholds, 0), bool)], [np.zeros((thresholds, 0), bool)]
    for index, entry in enumerate(entries):
        if entry is None:
            continue
        objects[index] = np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)
        images.append(np.full(len(entry["dtScores"]), index))
        scores.append(np.asarray(entry["dtScores"], np.float64))
        matched.append(np.asarray(entry["dtMatches"]) != 0)
        ignored.append(np.asarray(entry["dtIgnore"], bool))
    order = np.argsort(-np.concatenate(scores), kind="mergesort")
    return ClassMatches(
        np.concatenate(images)[order],
        np.concatenate(matched, axis=1)[:, order],
        np.concatenate(ignored, axis=1)[:, order],
        objects,
    )


def _precisions(matches: ClassMatches, weights: Ints) -> Floats:
    """Average precision by IoU threshold, (replicates, thresholds); NaN without an object.

    Only boxes that are right change the recall, so precision is looked at only there; between two of them
    stand the wrong ones, which are counted. Source: COCOeval.accumulate.
    """
    objects = weights @ matches.objects
    drawn = np.take(weights, matches.images, axis=1)
    counted = None if matches.ignored.any() else np.cumsum(drawn, axis=1)
    result = np.full((len(weights), len(matches.matched)), np.nan)
    for index, (matched, ignored) in enumerate(zip(matches.matched, matches.ignored, strict=True)):
        all_boxes = np.cumsum(drawn * ~ignored, axis=1) if counted is None else counted
        right = np.flatnonzero(matched & ~ignored)
        result[:, index] = _average(np.cumsum(drawn[:, right], axis=1), all_boxes[:, right], objects)
    result[objects == 0] = np.nan
    return result


def _average(right: Ints, boxes: Ints, objects: Ints) -> Floats:
    """Average the precision over the recall thresholds, (replicates,).

    Parameters
    ----------
    right, boxes : (replicates, n) int64
        At each right box, how many are right so far, and how many there are.
    objects : (replicates,) int64
    """
    if right.shape[1] == 0:
        return np.zeros(len(right))
    precision = right / (boxes + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = _thresholds_reached(right / np.maximum(objects, 1)[:, None])
    steps = np.diff(reached, axis=1, prepend=0)
    return np.asarray((precision * steps).sum(axis=1) / len(RECALLS))


def _thresholds_reached(recall: Floats) -> Ints:
    """Count the recall thresholds that are at most a recall; as searchsorted on the right, but sooner."""
    count = (recall * 100).astype(np.intp)  # the last one, or one too low or too high by its rounding
    after = np.append(RECALLS[1:], np.inf)
    return count + (recall >= RECALLS[count]) + (recall >= after[count])


def _known_mean(values: Floats) -> Floats:
    """Mean over the last axis of what is not NaN; NaN if nothing is left."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0.0).sum(axis=-1)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def draw_images(images: int, replicates: int = REPLICATES, seed: int = 0) -> Ints:
    """Draw as many images as there are, with replacement: how often each came, (replicates, images) int64."""
    drawn = np.random.default_rng(seed).integers(0, images, (replicates, images))
    cells = drawn + images * np.arange(replicates)[:, None]
    return np.bincount(cells.ravel(), minlength=replicates * images).reshape(replicates, images)


def interval(sample: Sample, seed: int = 0) -> list[Interval]:
    """Give the interval of each figure of a sample, in the order of its `figures`."""
    whole = sample.figures(np.ones((1, sample.images), np.int64))[0]
    return _intervals(whole, sample.figures(draw_images(sample.images, seed=seed)), sample.images)


def difference(ours: Sample, theirs: Sample, seed: int = 0) -> list[Interval]:
    """Give the interval of each figure's difference, ours less theirs, on the same draws.

    Parameters
    ----------
    ours, theirs : BoxSample or ClassSample
        Of the same images and classes, in the same order.
    """
    ones = np.ones((1, ours.images), np.int64)
    draws = draw_images(ours.images, seed=seed)
    whole = (ours.figures(ones) - theirs.figures(ones))[0]
    return _intervals(whole, ours.figures(draws) - theirs.figures(draws), ours.images)


def _intervals(whole: Floats, replicates: Floats, images: int) -> list[Interval]:
    return [_interval(float(v), replicates[:, i], images) for i, v in enumerate(whole)]


def _interval(value: float, replicates: Floats, images: int) -> Interval:
    known = replicates[~np.isnan(replicates)]
    return Interval(value, float(known.std()) if known.size else math.nan, images)
