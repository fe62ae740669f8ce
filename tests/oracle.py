"""What the kernels must give, in plain NumPy and double precision, only from the definitions.

Nothing here is shared with the kernels: it is slow, sees every value, and decides in the obvious order.
Sources: the box coder of the TensorFlow Object Detection API; YOLOv3 (Redmon and Farhadi, 2018), YOLOv4
(Bochkovskiy et al., 2020), YOLOv5 (Jocher, 2020), YOLOX (Ge et al., 2021), YuNet (Wu et al., 2023), YOLOv8
with Generalized Focal Loss (Li et al., 2020), FCOS (Tian et al., 2019), DETR (Carion et al., 2020), BlazeFace
(Bazarevsky et al., 2019); DIoU (Zheng et al., 2020).
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
    "SLACK",
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
Tensors = Sequence[Array]

SLACK = np.float32(0.02)
"""What rounding may add to a score of 0 or 1."""


@dataclass
class Anchors:
    """Every anchor of a frame: (n, 4) xyxy in input pixels, (n, C) scores, and what they come from."""

    boxes: Array
    scores: Array
    values: Array
    """(n, C) as the tensor has them; with a softmax's background before them."""
    objectness: Array | None = None
    raw_objectness: Array | None = None
    activated: bool = False
    """Whether the values are scores already, and so in 0..1."""
    root: bool = False
    """Whether the score is the geometric mean of objectness and class."""
    final: bool = False
    """Whether no NMS is to be done, and each class of a box is a candidate of its own (`every`)."""
    every: bool = False
    softmax: bool = False
    """Whether the values still have what stands for no class, of which `first` come first."""
    first: int = 0


@dataclass
class Found:
    boxes: Array
    scores: Array
    class_ids: Labels
    truncated: bool
    invalid: int


def sigmoid(x: Array) -> Array:
    x = np.asarray(x, np.float64)
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)))


def softmax(x: Array, axis: int = -1) -> Array:
    x = np.asarray(x, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        return np.asarray(e / e.sum(axis=axis, keepdims=True))


def _one(x: Array) -> Array:
    """Tell which scores rounding took above 1."""
    return np.minimum(np.asarray(x, np.float64), 1)


def _corners(x: Array, y: Array, w: Array, h: Array) -> Array:
    return np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)


def _grid(size: Size, strides: Sequence[int]) -> Array:
    across, down = ([range(-(-side // s)) for s in strides] for side in size)
    cells = [(x, y, s) for s, xs, ys in zip(strides, across, down, strict=True) for y in ys for x in xs]
    return np.array(cells, np.float64).T


# --- every head: tensors to anchors


def _scores(values: Array, activation: str) -> Array:
    return {"none": _one, "sigmoid": sigmoid, "softmax": softmax}[activation](values)


def _ssd(head: m.Ssd, tensors: Tensors, size: Size, priors: Array | None) -> Anchors:
    assert priors is not None
    codes, values = (t[0].astype(np.float64) for t in tensors)
    yc, xc, h, w = priors.astype(np.float64).T
    a, b, c, d = codes[:, :4].T
    ty, tx, th, tw = (a, b, c, d) if head.order == "yxhw" else (b, a, d, c)
    sy, sx, sh, sw = head.scales
    grow = np.exp if head.sizes == "exp" else np.asarray
    centres = ty / sy * h + yc, tx / sx * w + xc
    boxes = _corners(centres[1], centres[0], grow(tw / sw) * w, grow(th / sh) * h) * np.array([*size, *size])
    return _classed(boxes, values, head.activation, int(head.background))


def _classed(
    boxes: Array, values: Array, activation: str, first: int = 0, last: int = 0, **more: Any
) -> Anchors:
    """Boxes with class values; `first` and `last` of them stand for nothing with a name."""
    end = values.shape[1] - last
    scores = _scores(values, activation)[:, first:end]
    soft = activation == "softmax"
    kept = values if soft else values[:, first:end]
    return Anchors(boxes, scores, kept, activated=activation == "none", softmax=soft,
                   first=first if soft else 0, **more)  # fmt: skip


def _boxes_scores(head: m.BoxesScores, tensors: Tensors, size: Size) -> Anchors:
    boxes, values = (t[0].astype(np.float64) for t in tensors)
    boxes = boxes if head.boxes_layout == "channels_last" else boxes.T
    values = values if head.scores_layout == "channels_last" else values.T
    boxes = boxes * (np.array([*size, *size]) if head.normalized else 1.0)
    boxes = boxes if head.boxes == "corners" else _corners(*boxes.T)
    return _classed(boxes, values, head.activation, int(head.background))


def _detr(head: m.Detr, tensors: Tensors, size: Size) -> Anchors:
    values, boxes = (t[0].astype(np.float64) for t in tensors)
    boxes = _corners(*(boxes * np.array([*size, *size])).T)
    every = head.activation == "sigmoid"
    return _classed(boxes, values, head.activation, 0, int(head.no_object), final=True, every=every)


def _on_cells(
    head: m.Dfl | m.Distances, tensors: Tensors, size: Size, channels: int
) -> tuple[Array, Array, Array]:
    if head.tensors == "split":
        sides, values = (t[0].astype(np.float64) for t in tensors)
    else:
        t = tensors[0][0].astype(np.float64)
        classes = t.shape[1] - channels
        sides, values = (t[:, classes:], t[:, :classes]) if head.tensors == "classes_boxes" else (
            t[:, :channels], t[:, channels:])  # fmt: skip
    return sides, values, _grid(size, head.strides)


def _around_cells(x: Array, y: Array, s: Array, offset: float, sides: Array) -> Array:
    left, top, right, bottom = sides
    x, y = (x + offset) * s, (y + offset) * s
    return np.stack([x - left, y - top, x + right, y + bottom], -1)


def _dfl(head: m.Dfl, tensors: Tensors, size: Size) -> Anchors:
    sides, values, (x, y, s) = _on_cells(head, tensors, size, 4 * head.bins)
    mean = (softmax(sides.reshape(-1, 4, head.bins)) * np.arange(head.bins)).sum(-1)
    return _classed(_around_cells(x, y, s, head.offset, mean.T * s), values, head.activation)


def _distances(head: m.Distances, tensors: Tensors, size: Size) -> Anchors:
    sides, values, cells = _on_cells(head, tensors, size, 4)
    x, y, s = np.repeat(cells, head.boxes_per_cell, 1)
    unit = s if head.unit == "strides" else 1.0
    return _classed(_around_cells(x, y, s, head.offset, sides.T * unit), values, head.activation)


def _anchor_groups(head: m.YoloAnchor, tensor: Array, count: int, classes: int) -> Array:
    """Reshape to (A, 5 + C, h, w)."""
    if head.layout == "nahwc":
        return np.asarray(tensor[0].transpose(0, 3, 1, 2))
    grid = tensor[0] if head.layout == "nchw" else tensor[0].transpose(2, 0, 1)
    return np.asarray(grid.reshape(count, 5 + classes, *grid.shape[1:]))


def _yolo_anchor(head: m.YoloAnchor, tensors: Tensors, size: Size, classes: int) -> Anchors:
    parts = []
    for i, (tensor, mask) in enumerate(zip(tensors, head.masks, strict=True)):
        scale = head.scale_xy[i] if head.scale_xy else 1.0
        for a, group in zip(mask, _anchor_groups(head, tensor, len(mask), classes), strict=True):
            t = group.astype(np.float64)
            rows, columns = t.shape[1:]
            y, x = np.mgrid[:rows, :columns]
            aw, ah = head.anchors[a]
            if head.decode == "v5":
                dx, dy = 2 * sigmoid(t[0]) - 0.5, 2 * sigmoid(t[1]) - 0.5
                w, h = (2 * sigmoid(t[2])) ** 2 * aw, (2 * sigmoid(t[3])) ** 2 * ah
            else:
                dx, dy = (sigmoid(t[k]) * scale - (scale - 1) / 2 for k in (0, 1))
                w, h = np.exp(t[2]) * aw, np.exp(t[3]) * ah
            boxes = _corners((x + dx) * (size[0] / columns), (y + dy) * (size[1] / rows), w, h)
            parts.append((boxes.reshape(-1, 4), t[5:].reshape(classes, -1).T, t[4].ravel()))
    boxes, values, objectness = (np.concatenate(p) for p in zip(*parts, strict=True))
    scores = sigmoid(objectness)[:, None] * sigmoid(values)
    return Anchors(boxes, scores, values, sigmoid(objectness), objectness)


def _objects(boxes: Array, t: Array, root: bool = False) -> Anchors:
    scores = _one(t[:, 4:5]) * _one(t[:, 5:])
    scores = np.sqrt(scores) if root else scores
    return Anchors(boxes, scores, t[:, 5:], _one(t[:, 4]), t[:, 4], activated=True, root=root)


def _yolo_v5(head: m.YoloV5, tensors: Tensors, size: Size) -> Anchors:
    t = tensors[0][0].astype(np.float64)
    scale = np.array([*size, *size]) if head.normalized else 1.0
    return _objects(_corners(*(t[:, :4] * scale).T), t)


def _yolox(head: m.Yolox, tensors: Tensors, size: Size) -> Anchors:
    t = tensors[0][0].astype(np.float64)
    x, y, s = _grid(size, head.strides)
    boxes = _corners((t[:, 0] + x) * s, (t[:, 1] + y) * s, np.exp(t[:, 2]) * s, np.exp(t[:, 3]) * s)
    return _objects(boxes, t, head.score == "geometric_mean")


def _yolo_v8(head: m.YoloV8, tensors: Tensors, size: Size) -> Anchors:
    t = tensors[0][0].astype(np.float64)
    t = t.T if head.layout == "channels_first" else t
    scale = np.array([*size, *size]) if head.normalized else 1.0
    return _classed(_corners(*(t[:, :4] * scale).T), t[:, 4:], "none")


def _yolo_v8_raw(head: m.YoloV8Raw, tensors: Tensors, size: Size) -> Anchors:
    if head.tensors == "split":
        t = np.concatenate([tensors[0][0], tensors[1][0]])
    else:
        t = np.concatenate([x[0].reshape(x.shape[1], -1) for x in tensors], 1)
    t = t.astype(np.float64)
    bins = head.bins
    distances = softmax(t[: 4 * bins].reshape(4, bins, -1), 1)
    mean = (distances * np.arange(bins)[None, :, None]).sum(1)
    x, y, s = _grid(size, head.strides)
    return _classed(_around_cells(x, y, s, 0.5, mean * s), t[4 * bins :].T, "sigmoid")


def anchors_of(manifest: m.Manifest, tensors: Tensors, priors: Array | None = None) -> Anchors:
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
            case m.Dfl():
                return _dfl(head, tensors, size)
            case m.Distances():
                return _distances(head, tensors, size)
            case m.BoxesScores():
                return _boxes_scores(head, tensors, size)
            case m.Detr():
                return _detr(head, tensors, size)
    raise AssertionError(head)


# --- anchors to what is found


def _unsound(values: Array, activated: bool) -> Mask:
    """Find what no sound model gives: NaN, +inf, scores outside of 0..1; -inf rules a class out."""
    if activated:
        return np.asarray(~((values >= -SLACK) & (values <= 1 + SLACK)))
    return np.asarray(np.isnan(values) | (values == np.inf))


def _round(boxes: Array) -> Array:
    """float32, as they are published; a box that ends before it begins is empty."""
    boxes = boxes.astype(np.float32)
    ends_early = np.isfinite(boxes[:, 2:]) & (boxes[:, 2:] < boxes[:, :2])
    boxes[:, 2:] = np.where(ends_early, boxes[:, :2], boxes[:, 2:])
    return boxes


def _candidates(anchors: Anchors, thresholds: m.Thresholds) -> tuple[Array, Array, Labels, int]:
    """Box, score and class of all that passes, in the order of anchor and class; and what is unsound."""
    confidence = np.float32(thresholds.confidence)
    with np.errstate(all="ignore"):
        boxes, scores = _round(anchors.boxes), anchors.scores.astype(np.float32)
        unsound = _unsound(anchors.values, anchors.activated)
        if anchors.objectness is None or anchors.raw_objectness is None:
            seen, invalid = np.ones(len(boxes), bool), int(unsound.sum())
        else:
            broken = _unsound(anchors.raw_objectness, anchors.activated)
            least = np.float64(confidence) ** 2 if anchors.root else confidence
            seen = ~broken & (anchors.objectness >= least)
            invalid = int(broken.sum()) + int(unsound[seen].sum())
        if anchors.softmax:
            invalid += int((anchors.values == -np.inf).all(1).sum())
    passed = (scores >= confidence) & seen[:, None]
    if not (thresholds.multi_label or anchors.every):
        first = anchors.first
        best = anchors.values[:, first : first + scores.shape[1]].argmax(1)
        passed &= np.arange(scores.shape[1]) == best[:, None]
    finite = np.isfinite(boxes).all(1)
    invalid += int((passed.any(1) & ~finite).sum())
    index, label = np.nonzero(passed)
    return boxes[index], scores[index, label], label, invalid


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
    """Return the indices of what remains, best score first, equal ones by lower index.

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
    manifest: m.Manifest, tensors: Tensors, thresholds: m.Thresholds, priors: Array | None = None
) -> Found:
    """Return the boxes of a frame in input pixels, not clipped, best first; none if anything is unsound."""
    t = thresholds
    anchors = anchors_of(manifest, tensors, priors)
    boxes, scores, labels, invalid = _candidates(anchors, t)
    if invalid:
        return Found(boxes[:0], scores[:0], labels[:0], False, invalid)
    if anchors.final:
        keep: Labels = np.argsort(-scores.astype(np.float64), kind="stable")
        limit = len(scores)
    else:
        enough, limit = t.max_detections + 1, t.max_candidates
        keep = nms(boxes, scores, labels, t.iou, t.nms == "diou", t.agnostic, limit, enough)
    truncated = len(scores) > limit or len(keep) > t.max_detections
    keep = keep[: t.max_detections]
    return Found(boxes[keep], scores[keep], labels[keep], truncated, 0)


def final_boxes(
    rows: Array,
    thresholds: m.Thresholds,
    score: int,
    label: int,
    box: Sequence[int],
    size: Size,
    first_label: int = 0,
    center: bool = False,
) -> Found:
    """Rows that hold final boxes, each with one label; `score`, `label` and the four of `box` say where."""
    scores, labels = rows[:, score], rows[:, label]
    with np.errstate(all="ignore"):
        unsound = ~(np.isfinite(scores) & (scores <= 1 + SLACK))
        passed = ~unsound & (scores >= np.float32(thresholds.confidence))
        boxes = rows[:, list(box)].astype(np.float64) * np.array([*size, *size])
        boxes = _round(_corners(*boxes.T) if center else boxes)
    invalid = unsound.sum() + (passed & ~(np.isfinite(boxes).all(1) & ~np.isnan(labels))).sum()
    if invalid:
        return Found(boxes[:0], scores[:0], labels[:0].astype(int), False, int(invalid))
    order = np.flatnonzero(passed)
    scores = _one(scores).astype(np.float32)
    order = order[np.argsort(-scores[order], kind="stable")]
    keep = order[: thresholds.max_detections]
    return Found(
        boxes[keep], scores[keep], labels[keep].astype(int) - first_label, len(order) > len(keep), 0
    )


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
