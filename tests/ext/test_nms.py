"""Sorting and suppression against the oracle and against OpenCV."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from qzd_ext._nms import Candidates, nms
from qzd_ext.detections import FloatArray, IntArray

OPENCV_NMS: Callable[..., Any] = cv2.dnn.NMSBoxesBatched  # its stub knows only lists
THRESHOLDS = st.sampled_from([0.0, 0.1, 1 / 3, 0.45, 0.5, 0.65, 0.9, 1.0])


def boxes_of(rng: np.random.Generator, n: int, extent: float, side: float, whole: bool = False) -> FloatArray:
    """Return n random boxes, (n, 4) float32; at whole pixels, so that overlaps tie, if asked."""
    corner, size = rng.random((n, 2)) * extent, rng.random((n, 2)) * side
    boxes = np.concatenate([corner, corner + size], 1)
    return np.ascontiguousarray(np.floor(boxes) if whole else boxes, np.float32)


def scores_of(rng: np.random.Generator, n: int, levels: int | None = None) -> FloatArray:
    """Return n random scores, from few levels, so that they tie, if asked."""
    scores = rng.random(n)
    return (np.floor(scores * levels) / levels if levels else scores).astype(np.float32)


def check(boxes: FloatArray, scores: FloatArray, class_ids: IntArray, iou: float, **options: Any) -> None:
    limit = options.get("max_candidates")
    expected = oracle.nms(
        boxes, scores, class_ids, iou, options.get("diou", False), options.get("agnostic", False), limit
    )[: options.get("max_detections")]
    assert expected.tolist() == nms(boxes, scores, class_ids, iou=iou, **options).tolist()


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.sampled_from([0, 1, 2, 31, 32, 33, 40, 127, 128, 300, 600]),
    extent=st.sampled_from([1, 100, 640]),
    side=st.sampled_from([0, 10, 100, 1000]),
    whole=st.booleans(),
    levels=st.sampled_from([None, 1, 4]),
    classes=st.sampled_from([1, 3, 1000]),
    iou=THRESHOLDS,
    diou=st.booleans(),
    agnostic=st.booleans(),
    max_candidates=st.sampled_from([1, 50, 30000]),
    max_detections=st.sampled_from([1, 20, 30000]),
)
def test_nms_keeps_what_the_oracle_keeps(
    seed: int,
    n: int,
    extent: int,
    side: int,
    whole: bool,
    levels: int | None,
    classes: int,
    iou: float,
    diou: bool,
    agnostic: bool,
    max_candidates: int,
    max_detections: int,
) -> None:
    rng = np.random.default_rng(seed)
    boxes = boxes_of(rng, n, extent, side, whole)
    class_ids = rng.integers(0, classes, n, np.int32)
    check(
        boxes,
        scores_of(rng, n, levels),
        class_ids,
        iou,
        diou=diou,
        agnostic=agnostic,
        max_candidates=max_candidates,
        max_detections=max_detections,
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    exponents=st.tuples(st.integers(-140, 127), st.integers(-140, 127)),
    iou=THRESHOLDS,
    diou=st.booleans(),
)
def test_nms_keeps_what_the_oracle_keeps_when_sizes_are_extreme(
    seed: int, exponents: tuple[int, int], iou: float, diou: bool
) -> None:
    rng = np.random.default_rng(seed)
    scale = 2.0 ** rng.choice(exponents, (200, 1))
    scaled = boxes_of(rng, 200, 8, 8).astype(np.float64) * scale
    boxes = np.clip(scaled, -3e38, 3e38).astype(np.float32)
    check(boxes, scores_of(rng, 200), np.zeros(200, np.int32), iou, diou=diou)


@pytest.mark.parametrize("iou", [0.3, 0.7])
def test_nms_keeps_what_the_oracle_keeps_of_100000_candidates(iou: float) -> None:
    rng = np.random.default_rng(7)
    centers = rng.random((150, 2)) * 4000
    middle = centers[rng.integers(0, 150, 100_000)] + rng.normal(0, 1, (100_000, 2))
    boxes = np.concatenate([middle - 40, middle + 40], 1).astype(np.float32)
    check(boxes, scores_of(rng, 100_000, 1000), rng.integers(0, 2, 100_000, np.int32), iou)


def test_nms_keeps_all_of_100000_candidates_that_do_not_overlap() -> None:
    side = np.arange(100_000)
    corner = np.stack([side % 320 * 12, side // 320 * 12], 1)
    boxes = np.concatenate([corner, corner + 11], 1).astype(np.float32)
    scores = scores_of(np.random.default_rng(3), 100_000)
    expected = np.argsort(-scores, kind="stable")
    assert np.array_equal(expected, nms(boxes, scores, np.zeros(100_000, np.int32), iou=0.45))


PAIRS = [
    ("half overlap at its threshold stays", [0, 0, 3, 1], [1, 0, 4, 1], 0.5, 2),
    ("half overlap above the threshold goes", [0, 0, 3, 1], [1, 0, 4, 1], 0.49999, 1),
    ("the same box at threshold 1 stays", [0, 0, 3, 1], [0, 0, 3, 1], 1.0, 2),
    ("touching boxes at threshold 0 stay", [0, 0, 3, 1], [3, 0, 6, 1], 0.0, 2),
    ("the least overlap at threshold 0 goes", [0, 0, 3, 1], [2.9999998, 0, 6, 1], 0.0, 1),
    ("empty boxes in one place stay", [1, 1, 1, 1], [1, 1, 1, 1], 0.0, 2),
    ("a line across a box stays", [0, 0, 3, 3], [1, 0, 1, 3], 0.0, 2),
]


@pytest.mark.parametrize(("reason", "a", "b", "iou", "left"), PAIRS, ids=[p[0] for p in PAIRS])
def test_nms_of_two_boxes_when(reason: str, a: list[float], b: list[float], iou: float, left: int) -> None:
    boxes = np.array([a, b], np.float32)
    kept = nms(boxes, np.array([0.5, 0.9], np.float32), np.zeros(2, np.int32), iou=iou)
    assert [1, 0][:left] == kept.tolist()


def test_nms_prefers_the_lower_index_when_scores_tie() -> None:
    boxes = np.tile(np.array([[0, 0, 9, 9]], np.float32), (100, 1))
    scores = np.full(100, 0.5, np.float32)
    assert nms(boxes, scores, np.zeros(100, np.int32), iou=0.5).tolist() == [0]
    assert list(range(100)) == nms(boxes, scores, np.arange(100, dtype=np.int32), iou=0.5).tolist()


def test_nms_leaves_out_what_is_not_finite() -> None:
    boxes = np.zeros((6, 4), np.float32)
    boxes[1, 2], boxes[2, 0] = np.nan, -np.inf
    scores = np.array([0.1, 1, 1, np.nan, np.inf, -np.inf], np.float32)
    candidates = Candidates(1, 1.0, False, False, 10, 10)
    candidates.extend(boxes, scores, np.zeros(6, np.int32))
    assert (len(candidates), candidates.invalid) == (1, 5)
    assert nms(boxes, scores, np.zeros(6, np.int32), iou=0.5).tolist() == [0]


def test_nms_reads_arrays_that_cannot_be_written() -> None:
    boxes, scores, ids = np.zeros((2, 4), np.float32), np.ones(2, np.float32), np.zeros(2, np.int32)
    for array in (boxes, scores, ids):
        array.flags.writeable = False
    assert nms(boxes, scores, ids, iou=0.5).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("boxes", "scores", "ids"), [((3, 4), 2, 3), ((2, 4), 3, 3), ((3, 5), 3, 3), ((3, 4), 3, 2)]
)
def test_nms_refuses_lengths_that_differ(boxes: tuple[int, ...], scores: int, ids: int) -> None:
    with pytest.raises(ValueError, match=r"wanted boxes \(n, 4\)"):
        nms(np.zeros(boxes, np.float32), np.zeros(scores, np.float32), np.zeros(ids, np.int32), iou=0.5)


def test_nms_refuses_a_negative_class() -> None:
    with pytest.raises(ValueError, match="got -1"):
        nms(np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.full(1, -1, np.int32), iou=0.5)


@pytest.mark.parametrize("n", [1, 100, 3000])
def test_nms_agrees_with_opencv_when_there_are_no_ties(n: int) -> None:
    rng = np.random.default_rng(n)
    boxes, ids = boxes_of(rng, n, 640, 80), rng.integers(0, 5, n, np.int32)
    scores = (rng.permutation(n) + 1).astype(np.float32) / np.float32(n + 1)
    wh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    theirs = OPENCV_NMS(wh.astype(np.float64), scores, ids, 0.0, 0.45)
    assert np.asarray(theirs).tolist() == nms(boxes, scores, ids, iou=0.45).tolist()
