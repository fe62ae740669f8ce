"""Eight-bit layers give the same integers on every instruction set that this CPU can play.

`ONEDNN_MAX_CPU_ISA` makes a CPU compute as one without VNNI. The truth is NumPy's, in 64 bits.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from openvino import opset13 as ops

from qzd_tools.graph.structure import weighted_layers
from qzd_tools.quantize.overflow import PAIR_LIMIT, fit_weights, limit_weights, quantized_weight

ISAS = ("AVX2", "AVX512_CORE", "")
"""The last one is what the CPU has; a name that it lacks means what it has, too."""

LAYERS: dict[str, tuple[str, tuple[int, ...]]] = {
    "1x1": ("convolution", (24, 18, 1, 1)),
    "1x1 odd": ("convolution", (8, 13, 1, 1)),
    "3x3": ("convolution", (16, 16, 3, 3)),
    "3x3 odd": ("convolution", (8, 7, 3, 3)),
    "first": ("convolution", (16, 3, 3, 3)),
    "first 6x6": ("convolution", (16, 3, 6, 6)),
    "grey": ("convolution", (16, 1, 3, 3)),
    "depthwise": ("group", (16, 1, 1, 3, 3)),
    "groups": ("group", (4, 4, 8, 3, 3)),
    "odd groups": ("group", (4, 5, 5, 3, 3)),
    "transposed": ("deconvolution", (16, 8, 2, 2)),
    "matrix": ("matmul", (16, 32)),
    "odd matrix": ("matmul", (7, 19)),
}

PLAY = """
import sys, numpy as np, openvino as ov
core, folder = ov.Core(), sys.argv[1]
for number in range(int(sys.argv[2])):
    model = core.read_model(f"{folder}/{number}.xml")
    request = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    results = [request.infer({0: one})[0].copy() for one in np.load(f"{folder}/{number}.npy")]
    np.save(f"{folder}/{number}-{sys.argv[3]}.npy", np.stack(results))
"""


def quantizer(source: ov.Output, low: float, high: float, levels: int) -> ov.Node:
    ends = [np.float32(value) for value in (low, high, low, high)]
    return ops.fake_quantize(source, *ends, levels)


def layer(kind: str, weights: ov.Node | np.ndarray[Any, Any], shape: tuple[int, ...]) -> ov.Model:
    """Build a model of one layer between unsigned inputs, 0..255, and their sums of products."""
    if kind == "matmul":
        inputs = [1, 4, shape[-1]]
    else:
        channels = {"group": shape[0] * shape[2], "deconvolution": shape[0]}.get(kind, shape[1])
        inputs = [1, channels, 6, 6]
    source = ops.parameter(inputs, np.float32)
    levels = quantizer(source.output(0), 0, 255, 256)
    stored = ops.constant(weights) if isinstance(weights, np.ndarray) else weights
    pads = [1, 1], [1, 1], [1, 1]
    summed = {
        "convolution": lambda: ops.convolution(levels, stored, *pads, [1, 1]),
        "group": lambda: ops.group_convolution(levels, stored, *pads, [1, 1]),
        "deconvolution": lambda: ops.convolution_backprop_data(levels, stored, [2, 2]),
        "matmul": lambda: ops.matmul(levels, stored, False, True),
    }[kind]()
    summed.set_friendly_name("layer")
    return ov.Model([ops.relu(summed)], [source], kind)


def eight_bits(values: np.ndarray[Any, Any], kept: tuple[int, ...]) -> ov.Node:
    """Weights as NNCF stores them, all eight bits of each output."""
    axes = tuple(i for i in range(values.ndim) if i not in kept)
    scale = (np.abs(values).max(axis=axes, keepdims=True) / 127).astype(np.float32)
    stored = np.rint(values / scale).astype(np.int8)
    return ops.multiply(ops.convert(ops.constant(stored), "f32"), ops.constant(scale))


KEPT = {"convolution": (0,), "group": (0, 1), "deconvolution": (1,), "matmul": (0,)}


def worst_weights(kind: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Large ones of one sign in most outputs, as far from a safe pair as can be; random ones in others."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0.5, 1, shape) * np.where(rng.random(shape) < 0.9, 1, -1)
    values.reshape(-1)[: values.size // 4] = rng.normal(0, 1, values.size // 4)
    return values.astype(np.float32)


def worst_inputs(shape: ov.Shape) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(1)
    worst = np.full(shape, 255), rng.integers(0, 2, shape) * 255, rng.integers(0, 256, shape)
    return np.stack(worst).astype(np.float32)


def play(folder: Path, count: int, isa: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "ONEDNN_MAX_CPU_ISA"}
    environment |= {"ONEDNN_MAX_CPU_ISA": isa} if isa else {}
    words = [sys.executable, "-c", PLAY, str(folder), str(count), isa]
    subprocess.run(words, check=True, env=environment, timeout=300)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ov.Model]]:
    """Every layer, fitted, run on its worst inputs under each instruction set."""
    folder = tmp_path_factory.mktemp("layers")
    models = []
    for number, (kind, shape) in enumerate(LAYERS.values()):
        values = worst_weights(kind, shape)
        model = layer(kind, eight_bits(values, KEPT[kind]), shape)
        limit_weights(model, layer(kind, values, shape))
        ov.save_model(model, folder / f"{number}.xml", compress_to_fp16=False)
        np.save(folder / f"{number}.npy", worst_inputs(model.inputs[0].shape))
        models.append(model)
    for isa in ISAS:
        play(folder, len(models), isa)
    return folder, models


def reference(model: ov.Model, inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Run the same layer in float, where integers below 2**24 are exact."""
    (node,) = weighted_layers(model)
    found = quantized_weight(node)
    assert found is not None
    kind = model.get_friendly_name()
    plain = layer(kind, found[0].astype(np.float32), found[0].shape)
    (plain_node,) = weighted_layers(plain)
    plain_node.input(0).replace_source_output(plain.inputs[0].get_node().output(0))
    compiled = ov.Core().compile_model(plain, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.stack([compiled(one)[0].copy() for one in inputs])


def scales_of(model: ov.Model) -> np.ndarray[Any, Any]:
    (node,) = weighted_layers(model)
    found = quantized_weight(node)
    assert found is not None
    flat = found[1].reshape(-1)
    return flat if model.get_friendly_name() == "matmul" else flat[:, None, None]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("number", "name"), list(enumerate(LAYERS)), ids=LAYERS)
def test_a_fitted_layer_is_exact_on_its_worst_inputs(
    played: tuple[Path, list[ov.Model]], number: int, name: str, isa: str
) -> None:
    folder, models = played
    results = np.load(folder / f"{number}-{isa}.npy")
    exact = reference(models[number], np.load(folder / f"{number}.npy"))
    assert np.rint(results / scales_of(models[number])) == pytest.approx(exact, abs=0)


def test_a_layer_of_full_weights_overflows_on_a_cpu_without_vnni(tmp_path: Path) -> None:
    """Else the test above would hold for any weights."""
    model = layer("convolution", eight_bits(np.ones((8, 16, 1, 1), np.float32), (0,)), (8, 16, 1, 1))
    ov.save_model(model, tmp_path / "0.xml", compress_to_fp16=False)
    np.save(tmp_path / "0.npy", worst_inputs(model.inputs[0].shape))
    play(tmp_path, 1, "AVX2")
    results = np.load(tmp_path / "0-AVX2.npy")
    exact = reference(model, np.load(tmp_path / "0.npy"))
    assert not np.allclose(results / scales_of(model), exact, rtol=0.1)


def test_limit_weights_uses_all_bits_of_what_cannot_overflow() -> None:
    values = np.random.default_rng(0).normal(0, 1, (16, 1, 1, 3, 3)).astype(np.float32)
    model = layer("group", eight_bits(values, (0, 1)), values.shape)
    limit_weights(model, layer("group", values, values.shape))
    (node,) = weighted_layers(model)
    found = quantized_weight(node)
    assert found is not None
    assert (np.abs(found[0]).reshape(16, -1).max(axis=1) == 127).all()


@given(
    arrays.arrays(np.float32, (3, 8), elements=st.floats(-4, 4, width=32)),
    st.permutations(range(8)),
)
def test_fit_weights_keeps_pairs_within_the_limit_and_weights_near(
    weights: np.ndarray[Any, Any], order: list[int]
) -> None:
    pairs = np.array(order, np.int32).reshape(-1, 2)
    full = np.maximum(np.abs(weights).max(axis=1) / 127, 1e-6).astype(np.float32)
    integers, scales = fit_weights(weights, full, pairs)
    for row in integers:
        for one, other in row[pairs]:
            assert abs(one + other) <= PAIR_LIMIT or one * other < 0
    assert np.abs(integers).max() <= 127
    assert (scales >= full).all()
    assert (scales <= full * 2).all()
    assert (np.abs(integers * scales[:, None] - weights) <= 1.5 * scales[:, None] + 1e-6).all()
