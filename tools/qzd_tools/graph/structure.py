"""What a graph is made of, found by its structure: weighted layers, and the arithmetic of its head."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import openvino as ov

from qzd_ext.detections import FloatArray
from qzd_ext.errors import UsageError

__all__ = [
    "HeadParts",
    "constant_values",
    "find_head",
    "is_quantized",
    "match_names",
    "match_patterns",
    "match_types",
    "weight_port",
    "weighted_layers",
]

_CONVOLUTIONS = frozenset(
    {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData"}
)
_MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze"})
_FROM_CONSTANTS = frozenset({"Convert", "Multiply", "Subtract", "FakeQuantize", *_MOVES})

CHEAP_MULTIPLICATIONS = 0.05
CHEAP_WEIGHTS = 0.075
"""Shares of the whole model up to which its last layers are cheap enough for float: an INT8 file then stays
below 0.31 of the float one's size. A ResNet-50's last layer has 0.08 of its weights."""


@dataclass(frozen=True, slots=True)
class HeadParts:
    """The end of a graph.

    Attributes
    ----------
    layers : tuple of str
        The last weighted layers before the results: the convolutions that make boxes and scores.
    arithmetic : tuple of str
        Everything between them and the results: boxes from offsets, activations, concatenations.
    multiplications, weights : float
        Share that the layers have in those of all weighted layers, 0..1.
    """

    layers: tuple[str, ...]
    arithmetic: tuple[str, ...]
    multiplications: float
    weights: float

    @property
    def is_cheap(self) -> bool:
        """Whether the layers may stay in float: it costs neither time nor size that anyone notices."""
        return self.multiplications <= CHEAP_MULTIPLICATIONS and self.weights <= CHEAP_WEIGHTS


def _source(node: ov.Node, port: int) -> ov.Node:
    return node.input_value(port).get_node()


def _is_constant(node: ov.Node) -> bool:
    """Whether a node is a constant, or one decompressed, dequantized or reshaped."""
    if node.get_type_name() == "Constant":
        return True
    if node.get_type_name() not in _FROM_CONSTANTS:
        return False
    return all(_is_constant(_source(node, port)) for port in range(node.get_input_size()))


def _is_weighted(node: ov.Node) -> bool:
    kind = node.get_type_name()
    if kind in _CONVOLUTIONS:
        return _is_constant(_source(node, 1))
    return kind == "MatMul" and any(_is_constant(_source(node, port)) for port in (0, 1))


def _is_expectation(node: ov.Node) -> bool:
    """Whether a convolution only averages a distribution: one fed by a Softmax, as DFL's."""
    source = _source(node, 0)
    while source.get_type_name() in _MOVES:
        source = _source(source, 0)
    return source.get_type_name() in {"Softmax", "SoftMax"}


def weighted_layers(model: ov.Model) -> list[ov.Node]:
    """Convolutions and matrix products with constant weights, in topological order."""
    return [node for node in model.get_ordered_ops() if _is_weighted(node)]


def weight_port(node: ov.Node) -> tuple[int, tuple[int, ...]]:
    """Which input of a weighted layer is its weight, and the weight's axes of output channels and groups."""
    kind = node.get_type_name()
    if kind == "MatMul":
        port = 1 if _is_constant(_source(node, 1)) else 0
        transposed = node.get_attributes()["transpose_b" if port == 1 else "transpose_a"]
        rank = len(node.input_value(port).get_shape())
        return port, (rank - 2 if transposed == (port == 1) else rank - 1,)
    return 1, {
        "Convolution": (0,),
        "GroupConvolution": (0, 1),
        "ConvolutionBackpropData": (1,),
        "GroupConvolutionBackpropData": (0, 2),
    }[kind]


def constant_values(output: ov.Output) -> FloatArray | None:
    """Return a float constant's values, through the Convert of a half precision one; else None."""
    node = output.get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant" or not node.get_element_type().is_real():
        return None
    return np.asarray(node.data, np.float32)


def find_head(model: ov.Model) -> HeadParts:
    """Walk back from the results to the last weighted layers."""
    layers: dict[str, None] = {}
    arithmetic: dict[str, None] = {}
    pending = [_source(result, 0) for result in model.get_results()]
    while pending:
        node = pending.pop()
        name, kind = node.get_friendly_name(), node.get_type_name()
        if name in arithmetic or kind in {"Parameter", "ShapeOf"} or _is_constant(node):
            continue
        if _is_weighted(node) and not _is_expectation(node):
            layers[name] = None
            continue
        arithmetic[name] = None
        pending += [_source(node, port) for port in range(node.get_input_size())]
    return HeadParts(tuple(sorted(layers)), tuple(sorted(arithmetic)), *_shares(model, layers))


def _shares(model: ov.Model, names: Iterable[str]) -> tuple[float, float]:
    """Return the part that some weighted layers have in all multiplications, and in all weights."""
    every = {node.get_friendly_name(): _cost(node) for node in weighted_layers(model)}
    chosen = [every[name] for name in names]
    totals = [max(sum(costs), 1) for costs in zip(*every.values(), strict=True)] or [1, 1]
    return sum(c[0] for c in chosen) / totals[0], sum(c[1] for c in chosen) / totals[1]


def _cost(node: ov.Node) -> tuple[int, int]:
    """Multiplications for one inference, and weights."""
    weight = math.prod(node.input_value(weight_port(node)[0]).get_shape())
    kind = node.get_type_name()
    if kind == "MatMul":
        return weight * math.prod(node.get_output_shape(0)[:-2]), weight
    pixels = node.get_input_shape(0) if kind.endswith("BackpropData") else node.get_output_shape(0)
    return weight * math.prod(pixels[2:]), weight


def is_quantized(model: ov.Model) -> bool:
    """Whether activations are quantized in the graph already."""
    kinds = (node.get_type_name() for node in model.get_ordered_ops())
    return "FakeQuantize" in kinds


def _operations(model: ov.Model) -> list[ov.Node]:
    left_out = {"Constant", "Parameter", "Result"}
    return [node for node in model.get_ordered_ops() if node.get_type_name() not in left_out]


def match_names(model: ov.Model, names: Sequence[str]) -> list[str]:
    """Return the given names, each of which must be in the graph.

    Raises
    ------
    UsageError
        One is not; the message has the nearest ones.
    """
    known = [node.get_friendly_name() for node in _operations(model)]
    for name in names:
        if name not in known:
            raise _nothing(f"--ignored-name {name}", "the name of an operation", name, known)
    return list(names)


def match_patterns(model: ov.Model, patterns: Sequence[str]) -> list[str]:
    """Names of operations that a regular expression matches from their start.

    Raises
    ------
    UsageError
        One is no regular expression, or matches nothing.
    """
    known = [node.get_friendly_name() for node in _operations(model)]
    found: list[str] = []
    for pattern in patterns:
        try:
            matched = [name for name in known if re.match(pattern, name)]
        except re.error as error:
            raise UsageError(f"--ignored-pattern {pattern}: no regular expression: {error}") from error
        if not matched:
            wanted = "a pattern that matches operations from the start of their names"
            raise _nothing(f"--ignored-pattern {pattern}", wanted, pattern, known)
        found += matched
    return found


def match_types(model: ov.Model, types: Sequence[str]) -> list[str]:
    """Names of the operations of each type.

    Raises
    ------
    UsageError
        The graph has none of a type.
    """
    nodes = _operations(model)
    known = sorted({node.get_type_name() for node in nodes})
    for kind in types:
        if kind not in known:
            raise _nothing(f"--ignored-type {kind}", "a type of operation in this model", kind, known)
    return [node.get_friendly_name() for node in nodes if node.get_type_name() in types]


def _nothing(option: str, wanted: str, given: str, known: Sequence[str]) -> UsageError:
    near = difflib.get_close_matches(given, known, n=5, cutoff=0.0)
    nearest = f"the nearest are {', '.join(near)}"
    return UsageError(f"{option} matches nothing in this model", wanted=wanted, fix=nearest)
