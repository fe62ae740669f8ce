"""Small OpenVINO graphs that end as detectors and classifiers do, with made-up weights.

They take `[1, 3, 64, 64]` float32, so that strides 8, 16 and 32 give 64 + 16 + 4 = 84 cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino as ov
from openvino import opset13 as ops

__all__ = [
    "SIDE",
    "anchor_grids",
    "classifier",
    "convolution",
    "detection_output",
    "picture",
    "rows",
    "unknown",
    "yolo_v5",
    "yolo_v8",
    "yolox",
]

SIDE = 64
STRIDES = (8, 16, 32)
CELLS = sum((SIDE // s) ** 2 for s in STRIDES)

rng = np.random.default_rng(7)


def picture(shape: Sequence[int] = (1, 3, SIDE, SIDE), kind: ov.Type = ov.Type.f32) -> ov.Node:
    return ops.parameter(list(shape), kind, name="picture")


def convolution(source: ov.Node, channels: int, stride: int = 1, size: int = 1) -> ov.Node:
    """Add a convolution with bias; size 1 needs no padding, others keep the grid."""
    kernel = rng.normal(0, 0.1, (channels, source.shape[1], size, size)).astype(np.float32)
    pads = [size // 2] * 2
    node = ops.convolution(source, ops.constant(kernel), [stride, stride], pads, pads, [1, 1])
    return ops.add(node, ops.constant(rng.normal(0, 0.1, (1, channels, 1, 1)).astype(np.float32)))


def _rows(node: ov.Node) -> ov.Node:
    """[1, C, h, w] to [1, C, h * w]."""
    channels, height, width = node.shape[1:]
    return ops.reshape(node, np.array([1, channels, height * width]), special_zero=False)


def yolox(classes: int = 80, *, activated: bool = True) -> ov.Model:
    frame = picture()
    activate = ops.sigmoid if activated else ops.relu
    scales = []
    for stride in STRIDES:
        features = ops.relu(convolution(frame, 8, stride))
        parts = [convolution(features, 4), activate(convolution(features, 1))]
        scales.append(_rows(ops.concat([*parts, activate(convolution(features, classes))], 1)))
    rows = ops.transpose(ops.concat(scales, 2), np.array([0, 2, 1]))
    return ov.Model([rows], [frame], "yolox")


def yolo_v8(
    classes: int = 80,
    *,
    bins: int = 16,
    dfl: bool = True,
    last: bool = False,
    unit: float = 1,
    apart: bool = False,
) -> ov.Model:
    """As Ultralytics exports it, since 8.4 with boxes and scores `apart`: distributions, then boxes."""
    frame = picture()
    scales = []
    for stride in STRIDES:
        features = ops.relu(convolution(frame, 8, stride))
        scales.append([_rows(convolution(features, 4 * bins)), _rows(convolution(features, classes))])
    if apart:
        raw, logits = (ops.concat([scale[k] for scale in scales], 2).output(0) for k in (0, 1))
    else:
        joined = ops.concat([ops.concat(scale, 1) for scale in scales], 2)
        raw, logits = ops.variadic_split(joined, 1, [4 * bins, classes]).outputs()
    if dfl:
        grouped = ops.reshape(raw, np.array([1, 4, bins, CELLS]), special_zero=False)
        share = ops.softmax(ops.transpose(grouped, np.array([0, 2, 1, 3])), 1)
        values = np.arange(bins, dtype=np.float32).reshape(1, bins, 1, 1)
        sides = ops.reshape(ops.convolution(share, ops.constant(values), [1, 1], [0, 0], [0, 0], [1, 1]),
                            np.array([1, 4, CELLS]), special_zero=False)  # fmt: skip
    else:
        start, stop, one = np.array([0]), np.array([4]), np.array([1])
        sides = ops.relu(ops.slice(raw, start, stop, one, one))
    halves = ops.split(sides, 1, 2)
    cells, strides = _cells()
    low = ops.subtract(ops.constant(cells), halves.output(0))
    high = ops.add(ops.constant(cells), halves.output(1))
    middle = ops.divide(ops.add(low, high), np.float32(2))
    boxes = ops.concat([middle, ops.subtract(high, low)], 1)
    boxes = ops.multiply(boxes, ops.constant(strides * np.float32(unit)))
    output = ops.concat([boxes, ops.sigmoid(logits)], 1)
    if last:
        output = ops.transpose(output, np.array([0, 2, 1]))
    return ov.Model([output], [frame], "yolo_v8")


def _cells() -> tuple[np.ndarray, np.ndarray]:
    """Centres of the cells in units of their stride, [1, 2, N], and the strides, [1, 1, N]."""
    centres: list[np.ndarray] = []
    strides: list[np.ndarray] = []
    for stride in STRIDES:
        side = SIDE // stride
        rows, columns = np.divmod(np.arange(side * side), side)
        centres.append(np.stack([columns, rows]) + 0.5)
        strides.append(np.full((1, side * side), stride))
    return (
        np.concatenate(centres, 1).astype(np.float32)[None],
        np.concatenate(strides, 1).astype(np.float32)[None],
    )


def yolo_v5(classes: int = 80, anchors: int = 3, unit: float = 1) -> ov.Model:
    """Everything activated, boxes about their cells decoded by arithmetic on Sigmoid."""
    frame = picture()
    scales = []
    for stride in STRIDES:
        raw = ops.sigmoid(convolution(ops.relu(convolution(frame, 8, stride)), anchors * (5 + classes)))
        side = SIDE // stride
        grouped = ops.reshape(raw, np.array([1, anchors, 5 + classes, side * side]), special_zero=False)
        rows = ops.reshape(ops.transpose(grouped, np.array([0, 1, 3, 2])),
                           np.array([1, anchors * side * side, 5 + classes]), special_zero=False)  # fmt: skip
        parts = ops.variadic_split(rows, 2, [2, 2, 1 + classes])
        row, column = np.divmod(np.arange(side * side), side)
        cells = np.tile(np.stack([column, row], 1), (anchors, 1))[None].astype(np.float32)
        middle = ops.multiply(ops.add(parts.output(0), ops.constant(cells)), np.float32(stride * unit))
        sides = ops.multiply(ops.power(parts.output(1), np.float32(2)), np.float32(4 * stride * unit))
        scales.append(ops.concat([middle, sides, parts.output(2)], 2))
    return ov.Model([ops.concat(scales, 1)], [frame], "yolo_v5")


def detection_output(
    classes: int = 4, background: int = 0, priors: int = 6, decrease_label_id: bool = False
) -> ov.Model:
    """DetectionOutput over `classes` scores a prior, background among them (or -1)."""
    frame = picture()
    pooled = ops.reduce_mean(convolution(frame, priors * (4 + classes), 8), np.array([2, 3]), keep_dims=False)
    parts = ops.variadic_split(pooled, 1, [priors * 4, priors * classes])
    corners = np.tile(np.array([0.1, 0.1, 0.9, 0.9], np.float32), priors)
    variances = np.tile(np.array([0.1, 0.1, 0.2, 0.2], np.float32), priors)
    boxes = ops.constant(np.stack([corners, variances])[None])
    attributes = {
        "background_label_id": background,
        "decrease_label_id": decrease_label_id,
        "top_k": 10,
        "keep_top_k": np.array([10], np.int32),
        "nms_threshold": 0.5,
        "confidence_threshold": 0.01,
        "code_type": "caffe.PriorBoxParameter.CENTER_SIZE",
        "share_location": True,
        "normalized": True,
    }
    node = ops.detection_output(parts.output(0), ops.sigmoid(parts.output(1)), boxes, attributes)
    return ov.Model([node], [frame], "detection_output")


def anchor_grids(classes: int = 2, *, nhwc: bool = False, region: bool = False) -> ov.Model:
    """Two raw grids, 8 and 4 cells, of three anchors each."""
    frame = picture()
    outputs = []
    for stride, mask in ((8, [0, 1, 2]), (16, [3, 4, 5])):
        grid = convolution(ops.relu(convolution(frame, 8, stride)), 3 * (5 + classes))
        if nhwc:
            grid = ops.transpose(grid, np.array([0, 2, 3, 1]))
        if region:
            anchors = [float(x) for x in range(1, 13)]
            grid = ov.opset1.region_yolo(grid, 4, classes, 3, False, mask, 1, 3, anchors)
        outputs.append(grid)
    return ov.Model(outputs, [frame], "anchor_grids")


def classifier(
    classes: int = 10, *, softmax: bool = True, spatial: bool = False, best: bool = False
) -> ov.Model:
    """Means of a convolution; `best` adds the index of the best class, as TensorFlow's graphs have it."""
    frame = picture()
    features = ops.reduce_mean(convolution(frame, classes, 8), np.array([2, 3]), keep_dims=spatial)
    scores = ops.softmax(features, 1) if softmax else features
    top = [ops.topk(scores, np.int64(1), 1, "max", "value").output(1)] if best else []
    return ov.Model([*top, scores.output(0)], [frame], "classifier")


def unknown() -> ov.Model:
    """Build an autoencoder, which has no head at all."""
    frame = picture()
    return ov.Model([ops.tanh(convolution(frame, 3))], [frame], "unknown")


def rows(channels: int, count: int) -> ov.Model:
    """[1, channels, count] of which nothing shows what it is."""
    frame = picture()
    pooled = ops.reduce_mean(convolution(frame, channels * count, 8), np.array([2, 3]), keep_dims=False)
    return ov.Model(
        [ops.reshape(ops.tanh(pooled), np.array([1, channels, count]), special_zero=False)], [frame], "rows"
    )
