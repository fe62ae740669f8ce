"""Biases that make up for what rounding the weights does to a layer's mean output.

A weight that is rounded shifts its output by the rounding times the mean of its input. Both are known, so the
shift is computed and taken from the bias, with one pass of the float model over some images (Nagel et al.,
2019, Data-Free Quantization Through Weight Equalization and Bias Correction, section 4.2).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from qzd_ext.detections import FloatArray
from qzd_ext.geometry import Frame
from qzd_tools.graph.structure import constant_values, weight_port, weighted_layers
from qzd_tools.quantize.overflow import quantized_weight
from qzd_tools.quantize.revert import bias_input

__all__ = ["correct_biases", "input_means", "weights_of"]

Means = dict[str, NDArray[np.float64]]


def input_means(model: ov.Model, images: Iterable[Frame]) -> Means:
    """Measure the mean of each weighted layer's input, by channel.

    Parameters
    ----------
    model : ov.Model
        Float; not changed.
    images : iterable of (1, H, W, 3) uint8

    Returns
    -------
    dict of str to (channels,) float64
        By the layer's name.
    """
    watched = model.clone()
    layers = [node for node in weighted_layers(watched) if _has_channels(node)]
    first = len(watched.outputs)
    watched.add_results([ops.result(_mean_by_channel(node)) for node in layers])
    compiled = ov.Core().compile_model(watched, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    sums = [np.zeros(watched.outputs[first + i].get_shape()) for i in range(len(layers))]
    count = 0
    for image in images:
        results = request.infer({0: image})
        for i, total in enumerate(sums):
            total += results[first + i]
        count += 1
    return {node.get_friendly_name(): s / max(count, 1) for node, s in zip(layers, sums, strict=True)}


def _has_channels(node: ov.Node) -> bool:
    return weight_port(node)[0] == 1 and node.input_value(0).get_partial_shape().is_static


def _mean_by_channel(node: ov.Node) -> ov.Node:
    source = node.input_value(0)
    rank = len(source.get_shape())
    axis = rank - 1 if node.get_type_name() == "MatMul" else 1
    others = np.array([i for i in range(rank) if i != axis], np.int64)
    return ops.reduce_mean(source, ops.constant(others), keep_dims=False)


def weights_of(model: ov.Model) -> dict[str, FloatArray]:
    """Give the weights of each layer by its name, quantized ones as the numbers that they stand for."""
    found: dict[str, FloatArray] = {}
    for node in weighted_layers(model):
        stored, port = quantized_weight(node), weight_port(node)[0]
        values = constant_values(node.input_value(port)) if stored is None else stored[0] * stored[1]
        if values is not None:
            found[node.get_friendly_name()] = values
    return found


def correct_biases(model: ov.Model, wanted: dict[str, FloatArray], means: Means) -> None:
    """Shift the biases of a graph so that each layer's mean output is that of other weights, in place.

    Parameters
    ----------
    model : ov.Model
        Quantized.
    wanted : dict of str to array
        The weights that the model's biases fit, by layer, from `weights_of`.
    means : dict of str to (channels,) float64
        From `input_means`.
    """
    own = weights_of(model)
    for node in weighted_layers(model):
        name, bias = node.get_friendly_name(), bias_input(node)
        if bias is None or not {name} <= own.keys() & wanted.keys() & means.keys():
            continue
        values = constant_values(bias.get_source_output())
        shift = _shift(node, wanted[name] - own[name], means[name])
        if values is not None and shift is not None and shift.size == values.size:
            corrected = (values + shift.reshape(values.shape)).astype(np.float32)
            bias.replace_source_output(ops.constant(corrected).output(0))


def _shift(
    node: ov.Node, change: FloatArray, mean: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Compute what a change of the weights adds to each output channel, on average; None for other layers."""
    kind = node.get_type_name()
    if kind == "MatMul":
        by_outputs = change if node.get_attributes()["transpose_b"] else np.swapaxes(change, -1, -2)
        return np.asarray(by_outputs @ mean)
    if kind == "Convolution":
        return np.asarray(change.reshape(*change.shape[:2], -1).sum(axis=2) @ mean)
    if kind == "GroupConvolution":
        groups, outputs, inputs = change.shape[:3]
        summed = change.reshape(groups, outputs, inputs, -1).sum(axis=3)
        return np.asarray(np.einsum("goi,gi->go", summed, mean.reshape(groups, inputs))).reshape(-1)
    return None
