"""Smaller without calibration data: weights in eight bits, or everything in half precision.

What may live here: changes to constants of a graph. Arithmetic stays in float.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from qzd_ext.detections import FloatArray
from qzd_tools.structure import constant_values, weight_port, weighted_layers

__all__ = ["compress_weights"]

LEAST = 64
"""Elements below which a weight is not worth its scales."""


def compress_weights(model: ov.Model) -> int:
    """Store the weights of convolutions and matrix products as eight bits with a scale a channel, in place.

    A weight becomes `Multiply(Convert(i8), scale)`, symmetric, `scale = max |w| / 127` for each output
    channel; devices restore it when they load the model.

    Returns
    -------
    int
        Weights that were compressed.
    """
    count = 0
    for node in weighted_layers(model):
        port, axes = weight_port(node)
        values = constant_values(node.input_value(port))
        if values is None or values.size < LEAST:
            continue
        node.input(port).replace_source_output(_compressed(values, axes).output(0))
        count += 1
    model.validate_nodes_and_infer_types()
    return count


def _compressed(values: FloatArray, kept: tuple[int, ...]) -> ov.Node:
    axes = tuple(axis for axis in range(values.ndim) if axis not in kept)
    largest = np.abs(values).max(axis=axes, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    rounded = np.clip(np.round(values / scale), -127, 127).astype(np.int8)
    converted = ops.convert(ops.constant(rounded), "f32")
    return ops.multiply(converted, ops.constant(scale))
