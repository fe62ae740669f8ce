"""Graphs that end as families of detectors do, with made-up weights: built from the shapes of their outputs.

They take `[1, 3, 64, 64]` float32 unless told otherwise. What they give lies on the picture, as what trained
models give does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from support.detector_graphs import SIDE, convolution, picture

__all__ = [
    "boxes_scores",
    "detr",
    "end_to_end",
    "joined_queries",
    "levels",
    "nanodet",
    "retina_face",
    "rows_of_boxes",
]


def _flat(node: ov.Node) -> ov.Node:
    """[1, C, h, w] to [1, h * w, C]."""
    rows = ops.transpose(node, np.array([0, 2, 3, 1]))
    return ops.reshape(rows, np.array([1, -1, node.shape[1]]), special_zero=False)


def _features(frame: ov.Node, stride: int) -> ov.Node:
    return ops.relu(convolution(frame, 8, stride))


def _cells(strides: Sequence[int], side: int = SIDE) -> np.ndarray:
    """[1, N, 2] centres in pixels."""
    parts = []
    for stride in strides:
        y, x = np.mgrid[: -(-side // stride), : -(-side // stride)]
        parts.append((np.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride)
    return np.concatenate(parts)[None].astype(np.float32)


def _decoded(frame: ov.Node, strides: Sequence[int], form: str, unit: float) -> ov.Node:
    """[1, N, 4]: a box about each cell."""
    sizes = ops.concat([_flat(ops.sigmoid(convolution(_features(frame, s), 2))) for s in strides], 1)
    half = ops.multiply(sizes, np.float32(6))
    centre = ops.constant(_cells(strides))
    if form == "corners":
        boxes = ops.concat([ops.subtract(centre, half), ops.add(centre, half)], 2)
    else:
        boxes = ops.concat([ops.add(centre, ops.multiply(half, np.float32(0))), half], 2)
    return ops.multiply(boxes, np.float32(unit))


def _scores(frame: ov.Node, strides: Sequence[int], channels: int) -> ov.Node:
    """[1, N, C] logits."""
    return ops.concat([_flat(convolution(_features(frame, s), channels)) for s in strides], 1)


STRIDES = (8, 16, 32)


def rows_of_boxes(
    classes: int,
    form: str = "corners",
    *,
    unit: float = 1,
    columns: bool = False,
    strides: Sequence[int] = STRIDES,
) -> ov.Model:
    """[1, N, 4 + C], or its transpose with `columns`: decoded boxes and activated classes in one tensor."""
    frame = picture()
    boxes = _decoded(frame, strides, form, unit)
    rows = ops.concat([boxes, ops.sigmoid(_scores(frame, strides, classes))], 2)
    return ov.Model([ops.transpose(rows, np.array([0, 2, 1])) if columns else rows], [frame], "rows")


def expected_distances(classes: int) -> ov.Model:
    """[1, N, 4 + C] of distances to the sides, in strides, and activated classes."""
    frame = picture()
    sides = ops.multiply(ops.sigmoid(_scores(frame, STRIDES, 4)), np.float32(7))
    return ov.Model(
        [ops.concat([sides, ops.sigmoid(_scores(frame, STRIDES, classes))], 2)], [frame], "distances"
    )


def boxes_scores(
    classes: int,
    form: str = "corners",
    *,
    unit: float = 1,
    activation: str = "sigmoid",
    columns: bool = False,
) -> ov.Model:
    """Boxes [1, N, 4] and scores [1, N, C]."""
    frame = picture()
    logits = _scores(frame, STRIDES, classes)
    scores = {"sigmoid": ops.sigmoid, "none": lambda x: x, "softmax": lambda x: ops.softmax(x, 2)}[
        activation
    ](logits)
    if columns:
        scores = ops.transpose(scores, np.array([0, 2, 1]))
    return ov.Model([_decoded(frame, STRIDES, form, unit), scores], [frame], "boxes_scores")


def end_to_end(
    keep: int = 21,
    classes: int = 3,
    *,
    columns: Sequence[str] = ("x0", "y0", "x1", "y1", "score", "class"),
    unit: float = 1,
    apart: bool = False,
) -> ov.Model:
    """[1, K, columns] of the boxes whose scores TopK chose; or boxes, scores and labels `apart`."""
    frame = picture()
    form = "center" if "xc" in columns else "corners"
    boxes, scores = _decoded(frame, STRIDES, form, unit), ops.sigmoid(_scores(frame, STRIDES, classes))
    best = ops.topk(ops.reduce_max(scores, np.array([2]), keep_dims=False), np.int64(keep), 1, "max", "value")
    label = ops.convert(ops.topk(scores, np.int64(1), 2, "max", "value").output(1), ov.Type.f32)
    values = {
        "score": ops.unsqueeze(best.output(0), np.array([2])),
        "class": _chosen(label, best.output(1), 1),
    }
    for i, corner in enumerate(c for c in columns if c not in {"score", "class", "-"}):
        values[corner] = _chosen(ops.gather(boxes, np.array([i]), np.int64(2)), best.output(1), 1)
    values["-"] = ops.multiply(values["score"], np.float32(0))
    if apart:
        box = ops.concat([values[c] for c in columns if c not in {"score", "class"}], 2)
        score, ids = (ops.squeeze(values[c], np.array([2])) for c in ("score", "class"))
        return ov.Model([ops.convert(ids, ov.Type.i64), box, score], [frame], "apart")
    return ov.Model([ops.concat([values[c] for c in columns], 2)], [frame], "end_to_end")


def _chosen(values: ov.Node, places: ov.Output, width: int) -> ov.Node:
    """Those of [1, N, 1] that TopK chose."""
    index = ops.unsqueeze(places, np.array([2]))
    return ops.gather_elements(values, ops.tile(index, np.array([1, 1, width])), 1)


def _queries(frame: ov.Node, count: int, classes: int, two_stage: bool) -> tuple[ov.Node, ov.Node]:
    """Boxes in 0..1, [1, Q, 4], and logits, [1, Q, C]."""
    memory = _scores(frame, (4,), 8)
    if two_stage:
        best = ops.topk(
            ops.reduce_max(memory, np.array([2]), keep_dims=False), np.int64(count), 1, "max", "value"
        )
        index = ops.tile(ops.unsqueeze(best.output(1), np.array([2])), np.array([1, 1, 8]))
        queries = ops.gather_elements(memory, index, 1)
    else:
        queries = ops.slice(memory, np.array([0]), np.array([count]), np.array([1]), np.array([1]))
    rng = np.random.default_rng(5)

    def dense(width: int) -> ov.Node:
        return ops.matmul(
            queries, ops.constant(rng.normal(0, 1, (8, width)).astype(np.float32)), False, False
        )

    return ops.sigmoid(dense(4)), dense(classes)


def detr(count: int = 30, classes: int = 5, *, two_stage: bool = True, names: bool = False) -> ov.Model:
    """Logits [1, Q, C] and boxes [1, Q, 4]."""
    frame = picture()
    boxes, logits = _queries(frame, count, classes, two_stage)
    model = ov.Model([logits, boxes], [frame], "detr")
    if names:
        model.outputs[0].get_tensor().set_names({"labels"})
        model.outputs[1].get_tensor().set_names({"dets"})
    return model


def joined_queries(count: int = 30, classes: int = 5) -> ov.Model:
    """[1, Q, 4 + C], boxes in 0..1 and activated classes, as Ultralytics exports RT-DETR."""
    frame = picture()
    boxes, logits = _queries(frame, count, classes, True)
    return ov.Model([ops.concat([boxes, ops.sigmoid(logits)], 2)], [frame], "rtdetr")


def nanodet(classes: int = 4, bins: int = 8, strides: Sequence[int] = (8, 16, 32, 64)) -> ov.Model:
    """[1, N, C + 4 * bins]: classes from Sigmoid, then raw distributions."""
    frame = picture()
    parts = []
    for stride in strides:
        raw = ops.variadic_split(
            convolution(_features(frame, stride), classes + 4 * bins), 1, [classes, 4 * bins]
        )
        parts.append(_flat(ops.concat([ops.sigmoid(raw.output(0)), raw.output(1)], 1)))
    return ov.Model([ops.concat(parts, 1)], [frame], "nanodet")


def levels(
    widths: Sequence[int], strides: Sequence[int] = (8, 16, 32), *, activated: Sequence[int] = (),
    boxes: int = 1, maps: bool = False, pixels: bool = False,
) -> ov.Model:  # fmt: skip
    """Tensors of these widths on each level, as rows or `maps`; Sigmoid follows the places in `activated`."""
    frame = picture()
    outputs = []
    for place, width in enumerate(widths):
        for stride in strides:
            node = convolution(_features(frame, stride), width * boxes)
            if place in activated:
                node = ops.sigmoid(node)
            if pixels and width == 4:
                node = ops.multiply(ops.exp(node), np.float32(stride))
            if not maps:
                node = ops.reshape(
                    ops.transpose(node, np.array([0, 2, 3, 1])), np.array([1, -1, width]), False
                )
            outputs.append(node)
    return ov.Model(outputs, [frame], "levels")


def retina_face() -> ov.Model:
    """Codes [1, N, 4], scores [1, N, 2] from Softmax and landmarks [1, N, 10], two per cell."""
    frame = picture()
    found = {}
    for width in (4, 2, 10):
        parts = []
        for stride in STRIDES:
            node = ops.transpose(convolution(_features(frame, stride), 2 * width), np.array([0, 2, 3, 1]))
            parts.append(ops.reshape(node, np.array([1, -1, width]), special_zero=False))
        found[width] = ops.concat(parts, 1)
    return ov.Model([found[4], ops.softmax(found[2], 2), found[10]], [frame], "retina_face")


def blaze_face() -> ov.Model:
    """Codes [1, 896, 16] and logits [1, 896, 1] at 128x128."""
    frame = picture((1, 3, 128, 128))
    found = []
    for width in (16, 1):
        parts = []
        for stride, boxes in ((8, 2), (16, 6)):
            node = ops.transpose(convolution(_features(frame, stride), boxes * width), np.array([0, 2, 3, 1]))
            parts.append(ops.reshape(node, np.array([1, -1, width]), special_zero=False))
        found.append(ops.concat(parts, 1))
    return ov.Model(found, [frame], "blaze_face")
