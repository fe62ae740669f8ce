"""Eight-bit weights whose products cannot overflow 16 bits on a CPU without VNNI.

Such a CPU multiplies two neighbouring inputs, unsigned, with two signed weights and adds the products in 16
bits (vpmaddubsw): 255 * (a + b) overflows if two weights of one sign are together above 128. Seven bits for
every weight avoid that and halve the resolution of all of them. Here each output channel gets the smallest
scale that its own worst pair allows, which most often is far below twice the full one.

Which inputs are neighbours was learnt from oneDNN's kernels in OpenVINO 2026.4, by single layers with two
inputs that are not 0 (`tests/tools/quantize/test_overflow.py` tries it again):

- convolutions of every size, groups and matrix products: channels 2k and 2k + 1 of a group, at the same tap,
- if a group has an odd number of channels, kernels that lay all taps in a row (gemm by rows, brgemm by
  columns of the kernel) also pair across taps,
- depthwise convolutions: none, they multiply in 32 bits.

This holds for unsigned activations, which the mixed preset makes. On signed ones, oneDNN halves the weights
itself where there is no VNNI.
"""

from __future__ import annotations

import math

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from qzd_ext.detections import FloatArray
from qzd_tools.graph.structure import constant_values, weight_port, weighted_layers

__all__ = ["PAIR_LIMIT", "fit_weights", "limit_weights", "neighbours", "quantized_weight"]

PAIR_LIMIT = 128
"""What two weights of one sign may have together: 255 * 128 is the last multiple within 16 bits."""
LARGEST = 127

Integers = NDArray[np.int32]


def limit_weights(quantized: ov.Model, original: ov.Model) -> None:
    """Quantize the weights of a graph again so that no pair overflows, in place.

    Parameters
    ----------
    quantized : ov.Model
        As NNCF makes it, with all eight bits: `Multiply(Convert(i8), scale)`.
    original : ov.Model
        The float graph that it was made of, whose operations have the same names.
    """
    floats = {node.get_friendly_name(): node for node in weighted_layers(original)}
    for node in weighted_layers(quantized):
        found = quantized_weight(node)
        if found is None:
            continue
        port, kept = weight_port(node)
        values = constant_values(floats[node.get_friendly_name()].input_value(port))
        if values is None:
            continue
        inputs = _inputs_axis(node)
        rows, shape = _rows(values, kept, inputs)
        scale = np.broadcast_to(found[1], [n if i in kept else 1 for i, n in enumerate(values.shape)])
        pairs = neighbours(node, rows.shape)
        fitted, scales = fit_weights(rows.reshape(len(rows), -1), scale.reshape(-1), pairs)
        _put(node, port, _unrows(fitted.reshape(rows.shape), shape, kept, inputs), scales, kept)
    quantized.validate_nodes_and_infer_types()


def quantized_weight(node: ov.Node) -> tuple[NDArray[np.int8], FloatArray] | None:
    """Give a layer's eight-bit weights and their scales; None if its weights are float."""
    scaled = node.input_value(weight_port(node)[0]).get_node()
    if scaled.get_type_name() != "Multiply":
        return None
    stored = scaled.input_value(0).get_node()
    if stored.get_type_name() != "Convert" or stored.input_value(0).get_element_type() != ov.Type.i8:
        return None
    scale = constant_values(scaled.input_value(1))
    return None if scale is None else (np.asarray(stored.input_value(0).get_node().data), scale)


def _inputs_axis(node: ov.Node) -> int:
    """Find the axis of a weight that is summed over and is not the kernel's."""
    kind = node.get_type_name()
    if kind == "MatMul":
        port, (kept,) = weight_port(node)
        rank = len(node.input_value(port).get_shape())
        return rank - 2 if kept == rank - 1 else rank - 1
    return {
        "Convolution": 1,
        "GroupConvolution": 2,
        "ConvolutionBackpropData": 0,
        "GroupConvolutionBackpropData": 1,
    }[kind]


def _axes(rank: int, kept: tuple[int, ...], inputs: int) -> tuple[int, ...]:
    """Order a weight's axes: outputs, then the kernel, then inputs."""
    rest = tuple(axis for axis in range(rank) if axis not in kept and axis != inputs)
    return (*kept, *rest, inputs)


def _rows(values: FloatArray, kept: tuple[int, ...], inputs: int) -> tuple[FloatArray, tuple[int, ...]]:
    """Lay weights out as (outputs, *kernel, inputs); the second value undoes it in `_unrows`."""
    moved = np.transpose(values, _axes(values.ndim, kept, inputs))
    outputs = math.prod(moved.shape[: len(kept)])
    return moved.reshape(outputs, *moved.shape[len(kept) :]), moved.shape


def _unrows(
    rows: Integers, shape: tuple[int, ...], kept: tuple[int, ...], inputs: int
) -> NDArray[np.int8]:
    axes = _axes(len(shape), kept, inputs)
    return np.ascontiguousarray(np.transpose(rows.reshape(shape), np.argsort(axes)), np.int8)


def neighbours(node: ov.Node, shape: tuple[int, ...]) -> Integers:
    """List the pairs that a kernel may multiply together.

    Parameters
    ----------
    node : ov.Node
    shape : tuple of int
        Of its weights as (outputs, *kernel, inputs).

    Returns
    -------
    (pairs, 2) int32
        Indices into one output's weights, flattened.
    """
    *kernel, inputs = shape[1:]
    if _is_depthwise(node):
        return np.zeros((0, 2), np.int32)
    index = np.arange(math.prod(kernel) * inputs, dtype=np.int32).reshape(*kernel, inputs)
    even = index[..., : inputs - inputs % 2].reshape(-1, 2)
    if inputs % 2 == 0 or node.get_type_name() == "MatMul":
        return even
    by_columns = np.transpose(index, (*reversed(range(len(kernel))), len(kernel)))
    lines = [order.reshape(-1)[: index.size // 2 * 2].reshape(-1, 2) for order in (index, by_columns)]
    return np.unique(np.concatenate([even, *lines]), axis=0)


def _is_depthwise(node: ov.Node) -> bool:
    if not node.get_type_name().startswith("Group"):
        return False
    return list(node.input_value(1).get_shape())[1:3] == [1, 1]


def fit_weights(
    weights: FloatArray, scales: FloatArray, pairs: Integers
) -> tuple[Integers, FloatArray]:
    """Quantize weights with the smallest scales that keep every pair within `PAIR_LIMIT`.

    Parameters
    ----------
    weights : (outputs, n) float32
    scales : (outputs,) float32
        Of all eight bits; none becomes smaller.
    pairs : (pairs, 2) int32
        From `neighbours`.

    Returns
    -------
    integers : (outputs, n) int32
        -127..127
    scales : (outputs,) float32
    """
    exact = weights / scales[:, None]
    needed = _pair_sums(exact, pairs).max(axis=1, initial=0) / PAIR_LIMIT
    scales = (scales * np.maximum(needed, 1)).astype(np.float32)
    exact = weights / scales[:, None]
    integers = np.clip(np.rint(exact), -LARGEST, LARGEST).astype(np.int32)
    _lower(integers, exact, pairs)
    return integers, scales


def _pair_sums(weights: FloatArray | Integers, pairs: Integers) -> FloatArray:
    """Add up what is positive and what is negative in each pair; the larger, (outputs, pairs)."""
    first, second = weights[:, pairs[:, 0]], weights[:, pairs[:, 1]]
    above = np.maximum(first, 0) + np.maximum(second, 0)
    below = np.maximum(-first, 0) + np.maximum(-second, 0)
    return np.asarray(np.maximum(above, below))


def _lower(integers: Integers, exact: FloatArray, pairs: Integers) -> None:
    """Take one from the weight of a pair that was rounded up most, until no pair is above the limit."""
    while True:
        rows, columns = np.nonzero(_pair_sums(integers, pairs) > PAIR_LIMIT)
        if not len(rows):
            return
        first, second = pairs[columns].T
        up_first, up_second = (abs(integers[rows, i]) - abs(exact[rows, i]) for i in (first, second))
        chosen = np.where(up_first >= up_second, first, second)
        rows, chosen = np.unique(np.stack([rows, chosen]), axis=1)  # two pairs may share a weight
        integers[rows, chosen] -= np.sign(integers[rows, chosen])


def _put(
    node: ov.Node, port: int, stored: NDArray[np.int8], scales: FloatArray, kept: tuple[int, ...]
) -> None:
    shape = [n if i in kept else 1 for i, n in enumerate(stored.shape)]
    floats = ops.convert(ops.constant(stored), "f32")
    scaled = ops.multiply(floats, ops.constant(scales.reshape(shape)))
    node.input(port).replace_source_output(scaled.output(0))
