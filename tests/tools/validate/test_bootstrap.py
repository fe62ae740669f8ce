"""Intervals: each replicate is COCOeval's own figure, and the intervals cover what they say."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from qzd_ext.errors import DataError, GateError
from qzd_tools.validate.bootstrap import (
    BoxSample,
    ClassMatches,
    ClassSample,
    Interval,
    difference,
    draw_images,
    interval,
    matches_of,
)
from qzd_tools.validate.coco_eval import Evaluation
from qzd_tools.validate.gates import Comparison, check_agreement, check_drop

Entries = list[dict[str, Any]]
CATEGORIES = (1, 2, 3, 4)


def entries(images: int, seed: int) -> tuple[Entries, Entries]:
    """Objects and boxes on images: good and bad ones, equal scores, crowds, a class without objects."""
    rng = np.random.default_rng(seed)
    truth: Entries = []
    found: Entries = []
    for image in range(1, images + 1):
        scores = iter((rng.permutation(40) / 40).tolist())  # equal ones are those of different images
        for _ in range(rng.integers(0, 6)):
            x, y, w, h = rng.uniform((0, 0, 10, 10), (200, 200, 120, 120)).tolist()
            category, crowd = int(rng.integers(1, 4)), int(rng.random() < 0.1)
            kind = {"image_id": image, "category_id": category}
            truth.append(kind | {"bbox": [x, y, w, h], "area": w * h, "iscrowd": crowd})
            for _ in range(rng.integers(0, 3)):
                shifted = [x + rng.normal(0, w / 8), y + rng.normal(0, h / 8), w, h]
                found.append(kind | {"bbox": shifted, "area": w * h, "score": next(scores)})
        for _ in range(rng.integers(0, 8)):
            x, y, w, h = rng.uniform((0, 0, 10, 10), (200, 200, 120, 120)).tolist()
            kind = {"image_id": image, "category_id": int(rng.integers(1, 5))}
            found.append(kind | {"bbox": [x, y, w, h], "area": w * h, "score": next(scores)})
    return truth, found


def evaluate(truth: Entries, found: Entries, images: int, kind: type[COCOeval] = COCOeval) -> Any:
    def coco(annotations: Entries) -> COCO:
        made = COCO()
        numbered = [one | {"id": i, "iscrowd": one.get("iscrowd", 0)} for i, one in enumerate(annotations, 1)]
        categories = [{"id": number, "name": str(number)} for number in CATEGORIES]
        ids = [{"id": i} for i in range(1, images + 1)]
        made.dataset = {"images": ids, "annotations": numbered, "categories": categories}
        made.createIndex()
        return made

    with contextlib.redirect_stdout(io.StringIO()):
        both = coco(truth), coco(found)
        evaluation = kind(*both) if kind is Evaluation else kind(*both, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def drawn(annotations: Entries, counts: np.ndarray[Any, Any]) -> Entries:
    """Return the annotations of a data set in which each image comes as often as it was drawn."""
    sources = np.repeat(np.arange(len(counts)), counts)
    return [
        one | {"image_id": new}
        for new, source in enumerate(sources, 1)
        for one in annotations
        if one["image_id"] == source + 1
    ]


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_cocoevals_when_each_image_is_drawn_once(seed: int) -> None:
    evaluation = evaluate(*entries(30, seed), 30, Evaluation)
    figures = matches_of(evaluation).figures(np.ones((1, 30), np.int64))[0]
    assert figures[:2] == pytest.approx(evaluation.stats[:2], abs=1e-15)
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    assert figures[2:5] == pytest.approx(precision.mean(axis=(0, 1))[:3], abs=1e-15)
    assert np.isnan(figures[5])  # a class without objects


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_cocoevals_of_a_data_set_with_images_that_come_twice(seed: int) -> None:
    truth, found = entries(20, seed)
    sample = matches_of(evaluate(truth, found, 20, Evaluation))
    counts = draw_images(20, 3, seed)
    for replicate, figures in zip(counts, sample.figures(counts), strict=True):
        evaluation = evaluate(drawn(truth, replicate), drawn(found, replicate), 20)
        assert figures[:2] == pytest.approx(evaluation.stats[:2], abs=1e-14)


def test_figures_are_nan_when_no_object_was_drawn() -> None:
    matches = ClassMatches(np.array([0]), np.ones((10, 1), bool), np.zeros((10, 1), bool), np.array([1, 0]))
    figures = BoxSample((matches,)).figures(np.array([[0, 2], [2, 0]]))
    assert np.isnan(figures[0]).all()
    assert figures[1] == pytest.approx([1, 1, 1])


def test_top1_and_top5_are_the_shares_of_the_drawn_images() -> None:
    sample = ClassSample(np.array([True, False, False]), np.array([True, True, False]))
    assert sample.figures(np.array([[1, 1, 1], [3, 0, 0], [0, 1, 2]])) == pytest.approx(
        np.array([[1 / 3, 2 / 3], [1, 1], [0, 1 / 3]])
    )


def test_difference_has_no_error_when_both_are_the_same() -> None:
    sample = matches_of(evaluate(*entries(20, 0), 20, Evaluation))
    for one in difference(sample, sample)[:5]:
        assert (one.value, one.error) == (0, 0)


def test_difference_of_figures_that_go_together_is_surer_than_either() -> None:
    rng = np.random.default_rng(0)
    hits = rng.random(300) < 0.7
    worse = hits & (rng.random(300) < 0.97)
    alone = interval(ClassSample(hits, hits))[0]
    paired = difference(ClassSample(worse, worse), ClassSample(hits, hits))[0]
    assert paired.error < alone.error / 2


def test_intervals_of_top1_differences_cover_what_they_say() -> None:
    """1000 pairs of classifiers: the true difference is 0.03, and 95 of 100 intervals should hold it."""
    rng = np.random.default_rng(1)
    held, below = 0, 0
    for seed in range(1000):
        best = rng.random(300) < 0.80
        ours = np.where(best, rng.random(300) >= 0.08, rng.random(300) < 0.17)
        one = difference(ClassSample(ours, ours), ClassSample(best, best), seed)[0]
        truth = 0.80 * 0.92 + 0.20 * 0.17 - 0.80
        held += one.low <= truth <= one.high
        below += truth <= one.upper(0.95)
    assert 935 <= held <= 965
    assert 930 <= below <= 970


def population(rng: np.random.Generator, images: int) -> tuple[BoxSample, BoxSample]:
    """Two detectors on many images that are easy or hard for both; the second places its boxes worse."""
    difficulty = rng.normal(0, 1, images)
    objects = rng.poisson(0.7, images)
    owners = np.concatenate([np.repeat(np.arange(images), objects), rng.integers(0, images, images)])
    right = np.arange(len(owners)) < objects.sum()
    scores = np.where(right, 0.9 - 0.5 * difficulty[owners], -0.5) + rng.normal(0, 1, len(owners))
    overlaps = np.where(right, rng.uniform(0.3, 1, len(owners)), 0)
    samples = []
    for loss in (0.0, 0.02):
        order = np.argsort(-(scores + rng.normal(0, 0.25, len(owners))), kind="mergesort")
        order = order[rng.random(len(order)) < 0.9]
        noisy = overlaps[order] + rng.normal(0, 0.04, len(order)) - loss
        matched = (noisy >= np.arange(0.5, 1, 0.05)[:, None]) & right[order]
        samples.append(BoxSample((ClassMatches(owners[order], matched, np.zeros_like(matched), objects),)))
    return samples[0], samples[1]


def part(sample: BoxSample, chosen: np.ndarray[Any, Any]) -> BoxSample:
    """Return a data set of some of the images."""
    (one,) = sample.classes
    place = np.full(len(one.objects), -1)
    place[chosen] = np.arange(len(chosen))
    kept = place[one.images] >= 0
    columns = one.matched[:, kept], one.ignored[:, kept]
    return BoxSample((ClassMatches(place[one.images[kept]], *columns, one.objects[chosen]),))


def test_intervals_of_map_differences_cover_what_they_say() -> None:
    """300 data sets of 150 images out of 20,000: 95 % should hold the difference on all of them."""
    rng = np.random.default_rng(2)
    better, worse = population(rng, 20_000)
    ones = np.ones((1, 20_000), np.int64)
    truth = (worse.figures(ones) - better.figures(ones))[0, 0]
    held = 0
    for seed in range(300):
        chosen = rng.choice(20_000, 150, replace=False)
        one = difference(part(worse, chosen), part(better, chosen), seed)[0]
        held += one.low <= truth <= one.high
    assert 0.91 <= held / 300 <= 0.98


def comparison(drop: float, error: float, images: int = 200) -> Comparison:
    one = Interval(drop, error, images)
    return Comparison(one, {"map": one}, Interval(1 - drop, error, images), [], [])


@pytest.mark.parametrize(
    ("drop", "error", "certainty", "words"),
    [
        (0.010, 0.010, None, None),
        (0.011, 0.000, None, "accuracy fell by 0.0110"),
        (0.004, 0.003, 0.95, None),
        (0.004, 0.004, 0.95, "on some 241 images"),
        (0.011, 0.001, 0.95, "accuracy fell by 0.0110"),
        (0.010, 0.001, 0.95, "or accept less certainty"),
    ],
    ids=["at the limit", "above", "surely below", "perhaps below", "above with certainty", "never decided"],
)
def test_check_drop_asks_for_the_certainty(
    drop: float, error: float, certainty: float | None, words: str | None
) -> None:
    with pytest.raises(GateError, match=words) if words else contextlib.nullcontext():
        check_drop(comparison(drop, error), 0.01, certainty)
    with pytest.raises(GateError) if words else contextlib.nullcontext():
        check_agreement(comparison(drop, error).agreement, 0.01 + 1e-12, certainty)


def test_check_agreement_refuses_a_baseline_that_finds_nothing() -> None:
    with pytest.raises(DataError, match="nothing to agree with"):
        check_agreement(Interval(float("nan"), float("nan"), 3), 0.1)


def test_images_needed_grow_with_the_square_of_the_error() -> None:
    assert Interval(0.005, 0.01, 100).images_needed(0.01, 0.95) == 1083
    assert Interval(0.005, 0.02, 100).images_needed(0.01, 0.95) == 4329
    assert Interval(0.01, 0.01, 100).images_needed(0.01, 0.95) is None
