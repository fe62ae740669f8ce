"""Smaller without calibration data: weights in eight bits."""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from qzd_ext.detections import FloatArray
from qzd_tools.graph.structure import constant_values, weight_port, weighted_layers

__all__ = ["compress_weights"]

SMALL = 0.03
"""The smallest layers, which together have this part of all weights, stay in half precision: eight bits
would save nothing there, and depthwise layers, which are among them, lose most by it."""

HALF_LIMIT = 65504.0
"""The largest number in half precision."""


def compress_weights(model: ov.Model) -> int:
    """Store the weights of convolutions and matrix products as eight bits with a scale a channel, in place.

    A weight becomes `Multiply(Subtract(Convert(u8), zero), scale)`, with a scale and a zero point for each
    output channel: the step is a 254th of the channel's range, which is seldom symmetric, and zero stays
    zero. What is rounded up and down is balanced, so that each channel's weights keep their sum: an output
    is then not shifted by inputs that have a mean.

    Returns
    -------
    int
        Weights that were compressed to eight bits.
    """
    layers = [(node, *weight_port(node)) for node in weighted_layers(model)]
    values = [constant_values(node.input_value(port)) for node, port, _ in layers]
    small = _small([0 if v is None else v.size for v in values])
    count = 0
    for index, ((node, port, kept), weight) in enumerate(zip(layers, values, strict=True)):
        if weight is None:
            continue
        if index in small:
            compressed = _half(weight)
        else:
            compressed = _eight_bits(weight, kept)
            count += 1
        node.input(port).replace_source_output(compressed.output(0))
    model.validate_nodes_and_infer_types()
    return count


def _small(sizes: list[int]) -> set[int]:
    """List the smallest, which together have at most `SMALL` of the sum."""
    order = np.argsort(sizes, kind="stable")
    below = np.cumsum(np.array(sizes)[order]) <= SMALL * sum(sizes)
    return set(order[below].tolist())


def _half(values: FloatArray) -> ov.Node:
    if np.abs(values).max(initial=0) > HALF_LIMIT:
        return ops.constant(values)
    return ops.convert(ops.constant(values.astype(np.float16)), "f32")


def _eight_bits(values: FloatArray, kept: tuple[int, ...]) -> ov.Node:
    axes = tuple(axis for axis in range(values.ndim) if axis not in kept)
    low = np.minimum(values.min(axis=axes, keepdims=True), 0)
    width = np.maximum(values.max(axis=axes, keepdims=True), 0) - low
    # 254 steps of 255: both ends fit, whichever way they are rounded.
    scale = np.where(width > 0, width / 254, 1).astype(np.float32)
    zero = np.ceil(-low / scale)
    rounded = _balanced(np.moveaxis(values / scale, kept, range(len(kept))), len(kept))
    stored = np.ascontiguousarray(np.moveaxis(rounded, range(len(kept)), kept) + zero)
    bytes_, zeros = (ops.convert(ops.constant(part.astype(np.uint8)), "f32") for part in (stored, zero))
    return ops.multiply(ops.subtract(bytes_, zeros), ops.constant(scale))


def _balanced(values: FloatArray, leading: int) -> FloatArray:
    """Round so that the sum over all but the leading axes is kept to half a step.

    Those with the largest rest go the other way, as many as the sum of the rests asks for.
    """
    rows = values.reshape(*values.shape[:leading], -1)
    nearest = np.round(rows)
    rest = rows - nearest
    excess = np.round(rest.sum(axis=-1, keepdims=True))
    direction = np.sign(excess)
    rank = np.argsort(np.argsort(-rest * direction, axis=-1, kind="stable"), axis=-1, kind="stable")
    return (nearest + np.where(rank < np.abs(excess), direction, 0)).reshape(values.shape)
