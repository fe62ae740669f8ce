"""Biases after quantization: each layer's mean output is that of the float layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from qzd_tools.graph.structure import constant_values, weighted_layers
from qzd_tools.quantize.bias import correct_biases, input_means, weights_of
from qzd_tools.quantize.revert import bias_input

SHAPES = {"convolution": (8, 3, 1, 1), "group": (3, 2, 1, 1, 1), "matmul": (8, 3)}
Values = np.ndarray[Any, Any]


def model_of(kind: str, weights: Values, stored: bool) -> ov.Model:
    """One layer with a bias over a frame, with eight-bit weights or float ones."""
    frame = ops.parameter([1, 6, 5, 3], np.uint8)
    source = ops.convert(frame, "f32")
    scale = np.float32(np.abs(weights).max() / 7)  # coarse, so that rounding is felt
    values: ov.Node = ops.constant(weights)
    if stored:
        whole = ops.constant(np.rint(weights / scale).astype(np.int8))
        values = ops.multiply(ops.convert(whole, "f32"), ops.constant(np.full([1] * weights.ndim, scale)))
    if kind == "matmul":
        layer, bias = ops.matmul(source, values, False, True), np.zeros((1, 1, 1, 8), np.float32)
    else:
        planes = ops.transpose(source, np.array([0, 3, 1, 2]))
        pads = [1, 1], [0, 0], [0, 0], [1, 1]
        make = ops.convolution if kind == "convolution" else ops.group_convolution
        outputs = 8 if kind == "convolution" else 6
        layer, bias = make(planes, values, *pads), np.zeros((1, outputs, 1, 1), np.float32)
    layer.set_friendly_name("layer")
    return ov.Model([ops.add(layer, ops.constant(bias))], [frame], kind)


def means(model: ov.Model, images: list[Values]) -> Values:
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = np.concatenate([compiled(image)[0] for image in images])
    axes = (0, 1, 2) if model.get_friendly_name() == "matmul" else (0, 2, 3)
    return np.asarray(results.mean(axis=axes))


@pytest.mark.parametrize("kind", SHAPES)
def test_a_corrected_layer_has_the_mean_output_of_the_float_one(kind: str) -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 1, SHAPES[kind]).astype(np.float32)
    images = [rng.integers(0, 256, (1, 6, 5, 3)).astype(np.uint8) for _ in range(4)]
    original, quantized = (model_of(kind, weights, stored) for stored in (False, True))
    wanted = means(original, images)
    assert np.abs(means(quantized, images) - wanted).max() > 1
    correct_biases(quantized, weights_of(original), input_means(original, images))
    assert means(quantized, images) == pytest.approx(wanted, rel=1e-4, abs=1e-3)


def test_a_layer_whose_weights_are_kept_keeps_its_bias() -> None:
    weights = np.random.default_rng(0).normal(0, 1, SHAPES["convolution"]).astype(np.float32)
    model = model_of("convolution", weights, stored=False)
    image = np.zeros((1, 6, 5, 3), np.uint8)
    correct_biases(model, weights_of(model), input_means(model, [image]))
    (node,) = weighted_layers(model)
    bias = bias_input(node)
    assert bias is not None
    values = constant_values(bias.get_source_output())
    assert values is not None
    assert not values.any()
