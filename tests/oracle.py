"""What the kernels must give, in plain NumPy and double precision, from the definitions alone.

Nothing here is shared with the kernels: it is slow, sees every value, and decides in the obvious order.
Sources: the box coder of the TensorFlow Object Detection API; YOLOv3 (Redmon and Farhadi, 2018), YOLOv4
(Bochkovskiy et al., 2020), YOLOX (Ge et al., 2021), YOLOv8 with Generalized Focal Loss (Li et al., 2020);
DIoU (Zheng et al., 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qzd_ext import manifest as m
from qzd_ext.detections import FloatArray
from qzd_ext.geometry import Transform

__all__ = [
    "Anchors",
    "Found",
    "anchors_of",
    "decode",
    "final_boxes",
    "nms",
    "overlap",
    "to_input",
    "to_source",
]

Array = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.bool_]
Size = tuple[int, int]
"""Width and height of the input in pixels."""


@dataclass
class Anchors:
    """Every anchor of a frame: (n, 4) xyxy in input pixels, (n, C) scores, and what they come from."""

    boxes: Array
    scores: Array
    values: Array
    """(n, C) as the tensor has them; with a softmax's background before them."""
    objectness: Array | None = None
    raw_objectness: Array | None = None


@dataclass
class Found:
    boxes: Array
    scores: Array
    class_ids: Labels
    truncated: bool
    dropped: int


def sigmoid(x: Array) -> Array:
    x = np.asarray(x, np.float64)
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def softmax(x: Array, axis: int = -1) -> Array:
    x = np.asarray(x, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        return np.asarray(e / e.sum(axis=axis, keepdims=True))


def _corners(x: Array, y: Array, w: Array, h: Array) -> Array:
    return np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)


def _grid(size: Size, strides: Sequence[int]) -> Array:
    width, height = size
    cells = [(x, y, s) for s in strides for y in range(height // s) for x in range(width // s)]
    return np.array(cells, np.float64).T


# --- every head: tensors to anchors


def _ssd(head: m.Ssd, tensors: Sequence[Array], size: Size, priors: Array | None) -> Anchors:
    assert priors is not None
    codes, values = (t[0].astype(np.float64) for t in tensors)
    yc, xc, h, w = priors.astype(np.float64).T
    ty, tx, th, tw = (codes / np.array(head.scales)).T
    boxes = _corners(tx * w + xc, ty * h + yc, np.exp(tw) * w, np.exp(th) * h) * np.array([*size, *size])
    scores = {"none": values, "sigmoid": sigmoid(values), "softmax": softmax(values)}[head.activation]
    first = int(head.background)
    return Anchors(boxes, scores[:, first:], values if head.activation == "softmax" else values[:, first:])


def _yolo_anchor(head: m.YoloAnchor, tensors: Sequence[Array], size: Size, classes: int) -> Anchors:
    parts = []
    for i, (tensor, mask) in enumerate(zip(tensors, head.masks, strict=True)):
        grid = tensor[0] if head.layout == "nchw" else tensor[0].transpose(2, 0, 1)
        rows, columns = grid.shape[1:]
        scale = head.scale_xy[i] if head.scale_xy else 1.0
        y, x = np.mgrid[:rows, :columns]
        for a, group in zip(mask, grid.reshape(len(mask), 5 + classes, rows, columns), strict=True):
            t = group.astype(np.float64)
            aw, ah = np.array(head.anchors[a], np.float32).astype(np.float64)
            bx = (x + sigmoid(t[0]) * scale - (scale - 1) / 2) * (size[0] / columns)
            by = (y + sigmoid(t[1]) * scale - (scale - 1) / 2) * (size[1] / rows)
            boxes = _corners(bx, by, np.exp(t[2]) * aw, np.exp(t[3]) * ah)
            parts.append((boxes.reshape(-1, 4), t[5:].reshape(classes, -1).T, t[4].ravel()))
    boxes, values, objectness = (np.concatenate(p) for p in zip(*parts, strict=True))
    scores = sigmoid(objectness)[:, None] * sigmoid(values)
    return Anchors(boxes, scores, values, sigmoid(objectness), objectness)


def _yolo_v5(head: m.YoloV5, tensors: Sequence[Array], size: Size) -> Anchors:
    t = tensors[0][0].astype(np.float64)
    scale = np.array([*size, *size]) if head.normalized else 1.0
    boxes = _corners(*(t[:, :4] * scale).T)
    return Anchors(boxes, t[:, 4:5] * t[:, 5:], t[:, 5:], t[:, 4], t[:, 4])


def _yolox(head: m.Yolox, tensors: Sequence[Array], size: Size) -> Anchors:
    t = tensors[0][0].astype(np.float64)
    x, y, s = _grid(size, head.strides)
    boxes = _corners((t[:, 0] + x) * s, (t[:, 1] + y) * s, np.exp(t[:, 2]) * s, np.exp(t[:, 3]) * s)
    return Anchors(boxes, t[:, 4:5] * t[:, 5:], t[:, 5:], t[:, 4], t[:, 4])


def _yolo_v8(head: m.YoloV8, tensors: Sequence[Array], size: Size) -> Anchors:
    t = tensors[0][0].astype(np.float64)
    t = t.T if head.layout == "channels_first" else t
    scale = np.array([*size, *size]) if head.normalized else 1.0
    return Anchors(_corners(*(t[:, :4] * scale).T), t[:, 4:], t[:, 4:])


def _yolo_v8_raw(head: m.YoloV8Raw, tensors: Sequence[Array], size: Size) -> Anchors:
    if head.tensors == "split":
        t = np.concatenate([tensors[0][0], tensors[1][0]])
    else:
        t = np.concatenate([x[0].reshape(x.shape[1], -1) for x in tensors], 1)
    t = t.astype(np.float64)
    bins = head.bins
    distances = softmax(t[: 4 * bins].reshape(4, bins, -1), 1)
    left, top, right, bottom = (distances * np.arange(bins)[None, :, None]).sum(1)
    x, y, s = _grid(size, head.strides)
    x, y = x + 0.5, y + 0.5
    boxes = np.stack([(x - left) * s, (y - top) * s, (x + right) * s, (y + bottom) * s], -1)
    return Anchors(boxes, sigmoid(t[4 * bins :].T), t[4 * bins :].T)


def anchors_of(manifest: m.Manifest, tensors: Sequence[Array], priors: Array | None = None) -> Anchors:
    head, size = manifest.head, (manifest.input.width, manifest.input.height)
    with np.errstate(all="ignore"):
        match head:
            case m.Ssd():
                return _ssd(head, tensors, size, priors)
            case m.YoloAnchor():
                return _yolo_anchor(head, tensors, size, len(manifest.labels.names))
            case m.YoloV5():
                return _yolo_v5(head, tensors, size)
            case m.Yolox():
                return _yolox(head, tensors, size)
            case m.YoloV8():
                return _yolo_v8(head, tensors, size)
            case m.YoloV8Raw():
                return _yolo_v8_raw(head, tensors, size)
    raise AssertionError(head)


# --- anchors to what is found


def _poison(values: Array) -> Mask:
    """NaN or +inf: a network that is broken. -inf is a class that is ruled out."""
    return np.asarray(np.isnan(values) | (values == np.inf))


def _round(boxes: Array) -> Array:
    """float32, as they are published; a box that ends before it begins is empty."""
    boxes = boxes.astype(np.float32)
    ends_early = np.isfinite(boxes[:, 2:]) & (boxes[:, 2:] < boxes[:, :2])
    boxes[:, 2:] = np.where(ends_early, boxes[:, :2], boxes[:, 2:])
    return boxes


def _candidates(anchors: Anchors, thresholds: m.Thresholds) -> tuple[Array, Array, Labels, int]:
    """Anchor and class of all that passes, in the order of anchor and class, and what was dropped."""
    confidence = np.float32(thresholds.confidence)
    with np.errstate(all="ignore"):
        boxes, scores = _round(anchors.boxes), anchors.scores.astype(np.float32)
        if anchors.objectness is None or anchors.raw_objectness is None:
            seen, bad = np.ones(len(boxes), bool), np.zeros(len(boxes), bool)
        else:
            bad = _poison(anchors.raw_objectness)
            seen = ~bad & (anchors.objectness.astype(np.float32) >= confidence)
    bad |= seen & _poison(anchors.values).any(1)
    passed = scores >= confidence
    passed[bad | ~seen] = False
    if not thresholds.multi_label:
        first = anchors.values.shape[1] - scores.shape[1]
        best = anchors.values[:, first:].argmax(1)
        passed &= np.arange(scores.shape[1]) == best[:, None]
    finite = np.isfinite(boxes).all(1)
    bad |= passed.any(1) & ~finite
    passed[~finite] = False
    index, label = np.nonzero(passed)
    return boxes[index], scores[index, label], label, int(bad.sum())


def overlap(box: Array, others: Array, diou: bool = False) -> Array:
    """IoU, or DIoU, of one box with (n, 4) others, in double; 0 where one of two is empty."""
    box, others = box.astype(np.float64), others.astype(np.float64)
    w = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    h = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    both = np.where((w > 0) & (h > 0), w * h, 0)
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    union = (box[2] - box[0]) * (box[3] - box[1]) + areas - both
    iou = np.divide(both, union, out=np.zeros_like(both), where=both > 0)
    if not diou:
        return np.asarray(iou)
    apart = (((box[:2] + box[2:]) - (others[:, :2] + others[:, 2:])) / 2) ** 2
    hull = np.maximum(box[2:], others[:, 2:]) - np.minimum(box[:2], others[:, :2])
    diagonal = (hull**2).sum(1)
    return np.asarray(iou - np.divide(apart.sum(1), diagonal, out=np.zeros_like(iou), where=diagonal > 0))


def nms(
    boxes: Array,
    scores: Array,
    class_ids: Labels,
    iou: float,
    diou: bool = False,
    agnostic: bool = False,
    limit: int | None = None,
    enough: int | None = None,
) -> Labels:
    """Indices of what remains, best score first, equal ones by lower index.

    `limit` of them enter; when `enough` have been found, the rest is left.
    """
    order = np.lexsort((np.arange(len(scores)), -(scores.astype(np.float64))))[:limit]
    keep: list[int] = []
    while len(order) and len(keep) != enough:
        best, order = order[0], order[1:]
        keep.append(best)
        rival = np.full(len(order), True) if agnostic else class_ids[order] == class_ids[best]
        order = order[~(rival & (overlap(boxes[best], boxes[order], diou) > iou))]
    return np.array(keep, np.int64)


def decode(
    manifest: m.Manifest, tensors: Sequence[Array], thresholds: m.Thresholds, priors: Array | None = None
) -> Found:
    """The boxes of a frame in input pixels, not clipped, best first."""
    t = thresholds
    boxes, scores, labels, dropped = _candidates(anchors_of(manifest, tensors, priors), t)
    enough = t.max_detections + 1
    keep = nms(boxes, scores, labels, t.iou, t.nms == "diou", t.agnostic, t.max_candidates, enough)
    truncated = len(scores) > t.max_candidates or len(keep) > t.max_detections
    keep = keep[: t.max_detections]
    return Found(boxes[keep], scores[keep], labels[keep], truncated, dropped)


def final_boxes(
    rows: Array, thresholds: m.Thresholds, score: int, label: int, box: int, size: Size, first_label: int = 0
) -> Found:
    """Rows that hold final boxes, each with one label; `score`, `label`, `box` say where."""
    with np.errstate(all="ignore"):
        bad = np.isnan(rows[:, score]) | (rows[:, score] == np.inf)
        passed = ~bad & (rows[:, score] >= np.float32(thresholds.confidence))
        boxes = _round(rows[:, box : box + 4].astype(np.float64) * np.array([*size, *size]))
    bad |= passed & ~(np.isfinite(boxes).all(1) & np.isfinite(rows[:, label]))
    passed &= ~bad
    order = np.flatnonzero(passed)
    order = order[np.argsort(-rows[order, score], kind="stable")]
    keep = order[: thresholds.max_detections]
    labels = rows[keep, label].astype(int) - first_label
    return Found(boxes[keep], rows[keep, score], labels, len(order) > len(keep), int(bad.sum()))


def to_source(transform: Transform, boxes: FloatArray) -> FloatArray:
    """Boxes in input pixels, (n, 4) xyxy, in source pixels, clipped to the frame."""
    limit = np.array([transform.source_width, transform.source_height] * 2, np.float32)
    return np.asarray(np.clip((boxes - _offset(transform)) / _scale(transform), 0, limit), np.float32)


def to_input(transform: Transform, boxes: FloatArray) -> FloatArray:
    """Boxes in source pixels, (n, 4) xyxy, in input pixels, not clipped."""
    return boxes * _scale(transform) + _offset(transform)


def _offset(transform: Transform) -> FloatArray:
    return np.array([transform.offset_x, transform.offset_y] * 2, np.float32)


def _scale(transform: Transform) -> FloatArray:
    return np.array([transform.scale_x, transform.scale_y] * 2, np.float32)
