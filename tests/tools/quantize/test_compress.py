"""Weight compression: sizes, accuracy, and values that half precision cannot hold."""

from __future__ import annotations

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from qzd_tools.quantize.compress import compress_weights

RNG = np.random.default_rng(0)
IMAGE = (1, 8, 6, 6)
ZERO, ONE = [0, 0], [1, 1]


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def model_of(kind: str, values: np.ndarray, port_first: bool = False) -> ov.Model:
    flat = kind.startswith("matmul")
    source = ops.parameter([1, 8] if flat else list(IMAGE), ov.Type.f32)
    constant = ops.constant(values)
    made = {
        "convolution": lambda: ops.convolution(source, constant, ONE, ZERO, ZERO, ONE),
        "group": lambda: ops.group_convolution(source, constant, ONE, ZERO, ZERO, ONE),
        "deconvolution": lambda: ops.convolution_backprop_data(source, constant, ONE),
        "group deconvolution": lambda: ops.group_convolution_backprop_data(source, constant, ONE),
        "matmul": lambda: ops.matmul(source, constant, False, False),
        "matmul transposed": lambda: ops.matmul(source, constant, False, True),
        "matmul weight first": lambda: ops.matmul(constant, source, False, True),
    }[kind]()
    return ov.Model([made], [source], kind)


@pytest.mark.parametrize(
    ("kind", "shape", "channels"),
    [
        ("convolution", (16, 8, 3, 3), 16),
        ("group", (4, 4, 2, 3, 3), 16),
        ("deconvolution", (8, 16, 2, 2), 16),
        ("group deconvolution", (4, 2, 4, 2, 2), 16),
        ("matmul", (8, 16), 16),
        ("matmul transposed", (16, 8), 16),
        ("matmul weight first", (16, 8), 16),
    ],
)
@pytest.mark.parametrize("mean", [0, 1, -6], ids=["symmetric", "skewed", "negative"])
def test_compress_weights_keeps_results_with_a_scale_and_a_zero_a_channel(
    kind: str, shape: tuple[int, ...], channels: int, mean: int
) -> None:
    values = weights(*shape) + np.float32(mean)
    original, compressed = model_of(kind, values), model_of(kind, values)
    assert compress_weights(compressed) == 1
    source = RNG.normal(size=original.inputs[0].shape).astype(np.float32)
    core = ov.Core()
    exact = core.compile_model(original, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(source)[0]
    found = core.compile_model(compressed, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(source)[0]
    assert np.abs(found - exact).max() < 0.02 * np.abs(exact).max()
    constants = [n for n in compressed.get_ordered_ops() if n.get_type_name() == "Constant"]
    bytes_ = [n.data.astype(float) for n in constants if n.get_element_type() == ov.Type.u8]
    zero, stored = sorted(bytes_, key=np.size)
    scales = [n.data for n in constants if n.get_element_type() == ov.Type.f32]
    scale = next(found for found in scales if found.ndim == len(shape))
    assert (stored.shape, zero.size, scale.size) == (shape, channels, channels)
    # the step is that of the channel's range, zero in it
    inside = tuple(a for a in range(len(shape)) if scale.shape[a] == 1)
    reach = values.max(inside, initial=0, keepdims=True) - values.min(inside, initial=0, keepdims=True)
    np.testing.assert_allclose(scale, reach / 254, rtol=1e-5)
    # a weight goes to one of its two neighbours, and the sum of each channel's stays
    steps = (stored - zero) - values / scale
    assert np.abs(steps).max() <= 1 + 1e-4
    assert np.abs(steps.sum(axis=inside)).max() <= 0.5 + 1e-2


def test_compress_weights_leaves_the_smallest_layers_in_half_precision() -> None:
    source = ops.parameter([1, 8], ov.Type.f32)
    small = ops.matmul(source, ops.constant(weights(8, 8)), False, False)
    large = ops.matmul(small, ops.constant(weights(8, 400)), False, False)
    model = ov.Model([large], [source], "two")
    assert compress_weights(model) == 1
    types = [n.get_element_type() for n in model.get_ordered_ops() if n.get_type_name() == "Constant"]
    assert sorted(t.get_type_name() for t in types) == ["f16", "f32", "u8", "u8"]


def test_compress_weights_leaves_what_half_precision_cannot_hold() -> None:
    source = ops.parameter([1, 8], ov.Type.f32)
    small = ops.matmul(source, ops.constant(weights(8, 8) * np.float32(1e6)), False, False)
    model = ov.Model([ops.matmul(small, ops.constant(weights(8, 400)), False, False)], [source], "large")
    compress_weights(model)
    result = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert np.isfinite(result(np.ones((1, 8), np.float32))[0]).all()


def test_compress_weights_survives_a_channel_of_zeros() -> None:
    values = weights(16, 8, 3, 3)
    values[3] = 0
    model = model_of("convolution", values)
    assert compress_weights(model) == 1
    assert np.isfinite(ov.Core().compile_model(model, "CPU")(np.ones(IMAGE, np.float32))[0]).all()
