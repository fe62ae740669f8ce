"""Raw SSD heads in a graph: what TensorFlow's frozen graphs and TFLite's post-processing share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import openvino as ov

from qzd_tools.convert.facts import Facts, known
from qzd_tools.graph.walk import LAYOUT, ancestors, producers, skip

__all__ = ["FAMILY", "is_raw", "raw_codes", "raw_scores"]

LAYERS = frozenset({"Convolution", "GroupConvolution", "MatMul"})
RAW = LAYERS | {"Add"}
"""Operations that predict; nothing has been applied to what they give."""

Activation = Literal["sigmoid", "softmax", "none"]
ACTIVATIONS: dict[str, Activation] = {"Sigmoid": "sigmoid", "Softmax": "softmax"}

FAMILY: Facts = known(
    "as the TensorFlow Object Detection API feeds its SSD graphs", color="rgb", resize="stretch"
)


def is_raw(output: ov.Output) -> bool:
    """Whether an output is predictions, only moved about since."""
    return {p.get_node().get_type_name() for p in producers(output)} <= RAW


def raw_codes(boxes: ov.Output) -> Iterator[ov.Output]:
    """List what boxes may be decoded from: predictions of as many rows of four, nearest first.

    Their rank differs: OpenVINO removes a Squeeze or a Reshape between them and their decoding.
    """
    for node in ancestors(boxes, stop=LAYERS):
        output = node.output(0)
        shape = output.partial_shape
        if not shape.is_static or not len(shape) or output.shape[len(shape) - 1] != 4:
            continue
        if math.prod(output.shape) == math.prod(boxes.shape) and is_raw(output):
            yield output


def raw_scores(scores: ov.Output) -> tuple[ov.Output, Activation]:
    """The scores before their activation, `[1, N, C]`, and that activation.

    Where something else has been applied to them as well, they are left as they are.
    """
    here = skip(scores)
    activation = ACTIVATIONS.get(here.get_node().get_type_name())
    if activation is not None:
        raw = skip(here.get_node().input_value(0), LAYOUT - {"Reshape"})
        shape = raw.partial_shape
        if is_raw(raw) and shape.is_static and len(shape) == 3 and shape[0].get_length() == 1:
            return raw, activation
    return scores, "none"
