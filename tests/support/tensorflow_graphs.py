"""Graphs as the TensorFlow Object Detection API freezes them: resizing and NMS in Loops, boxes decoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from support.detector_graphs import convolution

__all__ = ["CLASSES", "SIDE", "Form", "detector", "priors"]

Form = Literal["rows", "squeezed", "added"]
SIDE = 16
CLASSES = 2
CELL = 4
COUNT = (SIDE // CELL) ** 2


def priors() -> np.ndarray:
    """(N, 4) float32, yc xc h w: one a cell, of two forms in turn."""
    rows, columns = np.divmod(np.arange(COUNT), SIDE // CELL)
    middle = (np.stack([rows, columns], 1) + 0.5) * CELL / SIDE
    sides = np.where(np.arange(COUNT)[:, None] % 2, [[0.2, 0.4]], [[0.3, 0.3]])
    return np.concatenate([middle, sides], 1).astype(np.float32)


def _loop(body_of: Callable[..., ov.Node], *outer: ov.Node) -> ov.Node:
    """Build a Loop that runs once over whole tensors; `body_of` builds its body from parameters."""
    inner = [ops.parameter(list(n.output(0).partial_shape), n.get_output_element_type(0)) for n in outer]
    again = ops.constant(np.array(True))
    body = ov.Model([ops.logical_or(again, again), body_of(*inner)], inner, "body")
    loop = ops.loop(ops.constant(np.int64(1)), ops.constant(np.array(True)))
    loop.set_function(body)
    loop.set_special_body_ports([-1, 0])
    for parameter, node in zip(inner, outer, strict=True):
        loop.set_invariant_input(parameter, node.output(0))
    loop.get_iter_value(body.get_results()[1].output(0), -1)
    loop.constructor_validate_and_infer_types()
    return loop


def _resized(frame: ov.Node) -> ov.Node:
    planes = ops.transpose(frame, np.array([0, 3, 1, 2]))
    size = ops.interpolate(planes, np.array([SIDE, SIDE]), "linear", "sizes", axes=np.array([2, 3]))
    return ops.transpose(size, np.array([0, 2, 3, 1]))


def _suppressed(boxes: ov.Node, scores: ov.Node) -> ov.Node:
    flat = ops.reshape(boxes, np.array([1, COUNT, 4]), special_zero=False)
    turned = ops.transpose(scores, np.array([0, 2, 1]))
    chosen = ops.non_max_suppression(
        flat, turned, ops.constant(np.int64(10)), ops.constant(np.float32(0.6)), ops.constant(np.float32(0.1))
    )
    return ops.convert(chosen.output(0), ov.Type.f32)


def detector(
    *, size: tuple[int, int] = (-1, -1), power: float = 1.0, form: Form = "rows", flat: bool = False
) -> ov.Model:
    """u8 `[1, H, W, 3]` to the rows of NMS; `power` other than 1 makes it a coder that nobody knows.

    `form` is how the codes reach their decoding: as `[1, N, 4]`; as `[1, N, 1, 4]` whose Reshape to `[N, 4]`
    is a part of it; or as rows that are decoded with additions only. `flat` boxes have no axis for classes.
    """
    frame = ops.parameter([1, *size, 3], ov.Type.u8, "image_tensor")
    resized = _loop(_resized, ops.convert(frame, ov.Type.f32)).output(0)
    scaled = ops.subtract(ops.multiply(resized, np.float32(2 / 255)), np.float32(1))
    features = ops.relu(convolution(ops.transpose(scaled, np.array([0, 3, 1, 2])), 8, CELL, 3))
    codes = _nhwc_rows(convolution(features, 4), 4, (COUNT, 1) if form == "squeezed" else (COUNT,))
    logits = _nhwc_rows(convolution(features, CLASSES + 1), CLASSES + 1)
    scores = ops.sigmoid(logits)
    named = ops.slice(scores, np.array([1]), np.array([CLASSES + 1]), np.array([1]), np.array([2]))
    shape = [1, COUNT, 4] if flat else [1, COUNT, 1, 4]
    boxes = ops.reshape(_decoded(codes, power, form), np.array(shape), special_zero=False)
    rows = _loop(_suppressed, boxes, named)
    return ov.Model([rows.output(0)], [frame], "detector")


def _nhwc_rows(node: ov.Node, channels: int, rows_shape: tuple[int, ...] = (COUNT,)) -> ov.Node:
    rows = ops.transpose(node, np.array([0, 2, 3, 1]))
    shape = np.array([1, *rows_shape, channels])
    half = ops.reshape(rows, shape, special_zero=False)
    return ops.concat([half], 1)


def _decoded(codes: ov.Node, power: float, form: Form) -> ov.Node:
    """FasterRcnnBoxCoder with scales 10, 10, 5, 5: y0 x0 y1 x1."""
    if form == "squeezed":
        codes = ops.reshape(codes, np.array([COUNT, 4]), special_zero=False)
    axis = len(codes.output(0).shape) - 1
    parts = ops.split(ops.divide(codes, np.array([10, 10, 5, 5], np.float32)), axis, 4)
    shape = [1] * (axis - 1) + [COUNT, 1]
    yc, xc, h, w = (ops.constant(priors()[:, i].reshape(shape)) for i in range(4))
    y = ops.add(ops.multiply(parts.output(0), h), yc)
    x = ops.add(ops.multiply(parts.output(1), w), xc)
    high = ops.multiply(ops.exp(parts.output(2)), h)
    wide = ops.multiply(ops.exp(ops.power(parts.output(3), np.float32(power))), w)
    half, minus = np.float32(0.5), np.float32(-0.5)

    def less(centre: ov.Node, side: ov.Node) -> ov.Node:
        if form == "added":
            return ops.add(centre, ops.multiply(side, minus))
        return ops.subtract(centre, ops.multiply(side, half))

    corners = [
        less(y, high),
        less(x, wide),
        ops.add(y, ops.multiply(high, half)),
        ops.add(x, ops.multiply(wide, half)),
    ]
    return ops.concat(corners, axis)
