"""Each head's check of the model's outputs, and its scans with everything about the model bound to them.

One function per head, from `ModelOutputs` to `Scans`. The scans are in `_scan`, the formulas of boxes in
`_place`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from qzd_ext._nms import Candidates
from qzd_ext._place import Placement
from qzd_ext._scan import scan_columns, scan_final, scan_objects, scan_rows
from qzd_ext.detections import FloatArray
from qzd_ext.errors import ModelError
from qzd_ext.head_types import CENTER, CORNERS
from qzd_ext.manifest import (
    BoxesScores,
    DetectionOutput,
    Detr,
    Dfl,
    Distances,
    EndToEnd,
    Ssd,
    Thresholds,
    YoloAnchor,
    YoloV5,
    YoloV8,
    YoloV8Raw,
    Yolox,
)
from qzd_ext.model_outputs import ModelOutputs, kind_of

__all__ = ["Scans", "Tensors", "scans_for"]

Tensors = Sequence[FloatArray]
Scan = Callable[[Tensors, Candidates, Thresholds], None]
Scans = list[Scan]
"""Each adds what a part of a frame's tensors holds, above the confidence threshold, to the candidates."""

ACTIVATIONS = ("none", "sigmoid", "softmax")


# --- final boxes


def _detection_output(outputs: ModelOutputs, head: DetectionOutput) -> Scans:
    outputs.want((1, 1, "N", 7))
    place = Placement.corners(*outputs.size)
    return [_final(outputs, 2, 1, (3, 4, 5, 6), 0, head.first_label, place)]


def _end_to_end(outputs: ModelOutputs, head: EndToEnd) -> Scans:
    columns = len(head.columns)
    rank = len(outputs.shapes[0]) if outputs.shapes else 3
    outputs.want((*[1] * min(max(rank - 2, 0), 2), "N", columns))
    centred = "xc" in head.columns
    x, y, w, h = map(head.columns.index, CENTER if centred else CORNERS)
    place = (Placement.center if centred else Placement.corners)(*outputs.unit(head.normalized))
    score, label = head.columns.index("score"), head.columns.index("class")
    return [_final(outputs, score, label, (x, y, w, h), -1, head.first_label, place)]


def _final(
    outputs: ModelOutputs,
    score: int,
    label: int,
    box: tuple[int, int, int, int],
    end: int,
    first_label: int,
    place: Placement,
) -> Scan:
    def scan(tensors: Tensors, out: Candidates, t: Thresholds) -> None:
        strange = scan_final(
            tensors[0], score, label, box, end, first_label, outputs.classes, place, out, t.confidence
        )
        if strange is not None:
            raise ModelError(
                f"the model found a box of label {strange:g}",
                wanted=f"{first_label} to {first_label + outputs.classes - 1}: "
                f"the manifest has {outputs.classes} names",
                fix="give the bundle the labels that the model was trained with",
            )

    return scan


# --- class scores and boxes


def _ssd(outputs: ModelOutputs, head: Ssd) -> Scans:
    n = outputs.length(0, 1)
    codes = outputs.length(0, 2)
    width = max(codes, 4) if isinstance(codes, int) else 4
    depth = outputs.classes + head.background
    why = f"{outputs.names}{' and a background' if head.background else ''}"
    outputs.want((1, n, width), (1, n, depth), why=why)
    priors = outputs.priors
    if priors is None or priors.shape != (n, 4) or priors.dtype != np.float32:
        found = "no priors" if priors is None else f"priors {priors.dtype} {priors.shape}"
        raise outputs.refuse(found, f"float32 ({n}, 4) in the bundle's priors.npy")
    place = Placement.codes(
        np.ascontiguousarray(priors), head.scales, *outputs.size, head.order == "xywh", head.sizes == "linear"
    )
    return [_rows(1, 0, len(priors), depth, head.background, outputs.classes, head.activation, place,
                  boxes=(0, width, 1))]  # fmt: skip


def _boxes_scores(outputs: ModelOutputs, head: BoxesScores) -> Scans:
    by_rows, boxes_by_rows = head.scores_layout == "channels_last", head.boxes_layout == "channels_last"
    n = outputs.length(0, 1 if boxes_by_rows else 2)
    depth = outputs.classes + head.background
    why = f"{outputs.names}{' and a background' if head.background else ''}"
    boxes: tuple[int | str, ...] = (1, n, 4) if boxes_by_rows else (1, 4, n)
    outputs.want(boxes, (1, n, depth) if by_rows else (1, depth, n), why=why)
    assert isinstance(n, int)
    make = Placement.center if head.boxes == "center" else Placement.corners
    place = make(*outputs.unit(head.normalized))
    layout = (0, 4, 1) if boxes_by_rows else (0, 1, n)
    if by_rows:
        return [_rows(1, 0, n, depth, head.background, outputs.classes, head.activation, place,
                      boxes=layout)]  # fmt: skip
    return [_columns(1, head.background * n, n, outputs.classes, head.activation, place, boxes=layout)]


def _detr(outputs: ModelOutputs, head: Detr) -> Scans:
    q = outputs.length(0, 1)
    depth = outputs.classes + head.no_object
    outputs.want((1, q, depth), (1, q, 4), why=f"{outputs.names}{' and no object' * head.no_object}")
    assert isinstance(q, int)
    place = Placement.center(*outputs.size)
    return [_rows(0, 0, q, depth, False, outputs.classes, head.activation, place, boxes=(0, 4, 1),
                  boxes_in=1, every_label=head.activation == "sigmoid")]  # fmt: skip


def _dfl(outputs: ModelOutputs, head: Dfl) -> Scans:
    place = Placement.distributions(_joined(outputs, head), head.bins, head.offset)
    return _on_cells(outputs, head, place, f"{head.bins} bins")


def _distances(outputs: ModelOutputs, head: Distances) -> Scans:
    cells = _joined(outputs, head, head.boxes_per_cell)
    return _on_cells(outputs, head, Placement.distances(cells, head.offset, head.unit == "pixels"), "4 sides")


def _joined(outputs: ModelOutputs, head: Dfl | Distances, boxes: int = 1) -> FloatArray:
    return np.concatenate(outputs.cells(head.strides, boxes))


def _on_cells(outputs: ModelOutputs, head: Dfl | Distances, place: Placement, sides: str) -> Scans:
    n, channels, classes = place.boxes, place.channels, outputs.classes
    why = f"{outputs.names}, {sides} and {n} cells of strides {head.strides}"
    if head.tensors == "split":
        outputs.want((1, n, channels), (1, n, classes), why=why)
        return [_rows(1, 0, n, classes, False, classes, head.activation, place, boxes=(0, channels, 1))]
    depth = channels + classes
    outputs.want((1, n, depth), why=why)
    box, score = (classes, 0) if head.tensors == "classes_boxes" else (0, channels)
    return [_rows(0, score, n, classes, False, classes, head.activation, place, boxes=(box, depth, 1),
                  stride=depth)]  # fmt: skip


def _yolo_v8(outputs: ModelOutputs, head: YoloV8) -> Scans:
    classes, depth = outputs.classes, 4 + outputs.classes
    columns = head.layout == "channels_first"
    shape = (1, depth, "N") if columns else (1, "N", depth)
    outputs.want(shape, why=f"{outputs.names}, {head.layout}")
    place = Placement.center(*outputs.unit(head.normalized))
    n = outputs.shapes[0][2 if columns else 1]
    if columns:
        return [_columns(0, 4 * n, n, classes, "none", place, boxes=(0, 1, n))]
    return [_rows(0, 4, n, classes, False, classes, "none", place, boxes=(0, depth, 1), stride=depth)]


def _yolo_v8_raw(outputs: ModelOutputs, head: YoloV8Raw) -> Scans:
    cells = outputs.cells(head.strides)
    sides, depth, n = 4 * head.bins, 4 * head.bins + outputs.classes, sum(map(len, cells))
    why = f"{outputs.names}, {head.bins} bins and {n} cells of strides {head.strides}"
    width, height = outputs.size
    if head.tensors == "joined":
        outputs.want((1, depth, n), why=why)
    elif head.tensors == "split":
        outputs.want((1, sides, n), (1, outputs.classes, n), why=why)
    else:
        outputs.want(*((1, depth, -(-height // s), -(-width // s)) for s in head.strides), why=why)
    if head.tensors != "scales":
        cells = [np.concatenate(cells)]
    split, scans, first = head.tensors == "split", [], 0
    for tensor, grid in enumerate(cells):
        place, count = Placement.distributions(grid, head.bins, 0.5), len(grid)
        scans.append(
            _columns(tensor + split, 0 if split else sides * count, count, outputs.classes, "sigmoid", place,
                     boxes=(0, 1, count), boxes_in=tensor, first_index=first)
        )  # fmt: skip
        first += count
    return scans


def _rows(
    scores: int,
    first: int,
    n: int,
    depth: int,
    background: bool,
    classes: int,
    activation: str,
    place: Placement,
    *,
    boxes: tuple[int, int, int],
    boxes_in: int = 0,
    stride: int | None = None,
    every_label: bool = False,
) -> Scan:
    """Scan rows of scores in one tensor, with boxes (first value, stride, step) in another or the same."""
    kind, begin, step = ACTIVATIONS.index(activation), int(background), stride or depth

    def scan(tensors: Tensors, out: Candidates, t: Thresholds) -> None:
        scan_rows(
            tensors[scores], first, n, step, depth, begin, classes, kind, tensors[boxes_in], *boxes, 0, place,
            out, t.confidence, every_label or t.multi_label,
        )  # fmt: skip

    return scan


def _columns(
    scores: int,
    first: int,
    n: int,
    classes: int,
    activation: str,
    place: Placement,
    *,
    boxes: tuple[int, int, int],
    boxes_in: int = 0,
    first_index: int = 0,
) -> Scan:
    """Scan columns of scores in one tensor, with boxes (first value, stride, step) in another or the same."""
    kind = ACTIVATIONS.index(activation)

    def scan(tensors: Tensors, out: Candidates, t: Thresholds) -> None:
        scan_columns(
            tensors[scores], first, n, classes, kind, tensors[boxes_in], *boxes, first_index, place, out,
            t.confidence, t.multi_label,
        )  # fmt: skip

    return scan


# --- boxes with an objectness


def _yolo_v5(outputs: ModelOutputs, head: YoloV5) -> Scans:
    outputs.want((1, "N", 5 + outputs.classes), why=outputs.names)
    return [_object_rows(outputs, Placement.center(*outputs.unit(head.normalized)), root=False)]


def _yolox(outputs: ModelOutputs, head: Yolox) -> Scans:
    cells = np.concatenate(outputs.cells(head.strides))
    why = f"{outputs.names} and {len(cells)} cells of strides {head.strides}"
    outputs.want((1, len(cells), 5 + outputs.classes), why=why)
    return [_object_rows(outputs, Placement.offsets(cells), root=head.score == "geometric_mean")]


def _object_rows(outputs: ModelOutputs, place: Placement, *, root: bool) -> Scan:
    n, depth = outputs.shapes[0][1:]

    def scan(tensors: Tensors, out: Candidates, t: Thresholds) -> None:
        scan_objects(
            tensors[0], 0, n, depth, 1, outputs.classes, 0, root, 0, place, out, t.confidence, t.multi_label
        )

    return scan


def _yolo_anchor(outputs: ModelOutputs, head: YoloAnchor) -> Scans:
    shapes = [_grid_shape(head.layout, len(mask), 5 + outputs.classes) for mask in head.masks]
    outputs.want(*shapes, why=f"{outputs.names} and masks {head.masks}")
    scans: Scans = []
    first = 0
    for tensor, mask in enumerate(head.masks):
        for place, layout, n in _anchors(outputs, head, tensor, mask):
            scans.append(partial(_scan_anchor, tensor, layout, n, outputs.classes, first, place))
            first += n
    return scans


def _grid_shape(layout: str, anchors: int, depth: int) -> tuple[int | str, ...]:
    if layout == "nahwc":
        return (1, anchors, "h", "w", depth)
    return (1, anchors * depth, "h", "w") if layout == "nchw" else (1, "h", "w", anchors * depth)


def _anchors(
    outputs: ModelOutputs, head: YoloAnchor, tensor: int, mask: tuple[int, ...]
) -> list[tuple[Placement, tuple[int, int, int], int]]:
    """Return for each anchor of a scale its placement, (first value, stride, step), and its cells."""
    depth, shape = 5 + outputs.classes, outputs.shapes[tensor]
    rows, columns = shape[-2:] if head.layout == "nchw" else shape[-3:-1]
    n, (width, height) = rows * columns, outputs.size
    scale_xy = head.scale_xy[tensor] if head.scale_xy else 1.0
    found = []
    for a, index in enumerate(mask):
        layout = {
            "nchw": (a * depth * n, 1, n),
            "nhwc": (a * depth, len(mask) * depth, 1),
            "nahwc": (a * depth * n, depth, 1),
        }[head.layout]
        place = Placement.anchor(
            columns, width / columns, height / rows, *head.anchors[index], scale_xy, head.decode == "v5"
        )
        found.append((place, layout, n))
    return found


def _scan_anchor(
    tensor: int,
    layout: tuple[int, int, int],
    n: int,
    classes: int,
    first_index: int,
    place: Placement,
    tensors: Tensors,
    out: Candidates,
    t: Thresholds,
) -> None:
    first, stride, step = layout
    scan_objects(
        tensors[tensor], first, n, stride, step, classes, 1, False, first_index, place, out, t.confidence,
        t.multi_label,
    )  # fmt: skip


def scans_for(outputs: ModelOutputs) -> Scans:
    """Return the scans of the manifest's head, once the model's results are what it needs.

    Raises
    ------
    ModelError
        The shapes are not what the manifest's head and labels need.
    """
    match outputs.manifest.head:
        case DetectionOutput() as head:
            return _detection_output(outputs, head)
        case EndToEnd() as head:
            return _end_to_end(outputs, head)
        case Ssd() as head:
            return _ssd(outputs, head)
        case BoxesScores() as head:
            return _boxes_scores(outputs, head)
        case Detr() as head:
            return _detr(outputs, head)
        case Dfl() as head:
            return _dfl(outputs, head)
        case Distances() as head:
            return _distances(outputs, head)
        case YoloAnchor() as head:
            return _yolo_anchor(outputs, head)
        case YoloV5() as head:
            return _yolo_v5(outputs, head)
        case Yolox() as head:
            return _yolox(outputs, head)
        case YoloV8() as head:
            return _yolo_v8(outputs, head)
        case YoloV8Raw() as head:
            return _yolo_v8_raw(outputs, head)
        case _:
            found = f"head {kind_of(outputs.manifest)} finds no boxes"
            raise ModelError(found, wanted="a head for detection")
