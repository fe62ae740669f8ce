"""TensorFlow Lite: FlexBuffers, custom operations, and quantized graphs turned to float."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openvino import opset13 as ops

from qzd_ext.errors import ModelError
from qzd_ext.manifest import Ssd
from qzd_tools.convert.facts import Recognised
from qzd_tools.convert.formats.dequantize import to_float
from qzd_tools.convert.formats.flatbuffers import custom_options, flexbuffer_map
from qzd_tools.convert.formats.read import read_source
from qzd_tools.convert.formats.tflite import POST_PROCESS
from support import detector_graphs
from support.results import instance_of

QUANTIZED = "ssd_mobilenet_v1_coco_quant_detect.tflite"
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
INT, FLOAT, STRING, MAP, BOOL = 1, 3, 5, 9, 26


def flexbuffer(values: Mapping[str, bool | float | str]) -> bytes:
    """Encode a FlexBuffers map with every number 8 bytes wide."""
    data, keys = b"", []
    for name in sorted(values):
        keys.append(len(data))
        data += name.encode() + b"\0"
    data += bytes(-len(data) % 8)
    count = len(keys)
    data += struct.pack("<Q", count)
    vector = len(data)
    data += b"".join(struct.pack("<Q", vector + 8 * i - at) for i, at in enumerate(keys))
    data += struct.pack("<QQQ", len(data) - vector, 8, count)
    kinds = b""
    for name in sorted(values):
        value = values[name]
        kind = {bool: BOOL, int: INT, float: FLOAT, str: STRING}[type(value)]
        data += struct.pack("<d" if kind == FLOAT else "<q", 0 if kind == STRING else value)
        kinds += bytes([kind << 2 | 3])
    data += kinds
    return data + bytes([8 * count + len(kinds), MAP << 2 | 3, 1])


numbers = st.integers(-(2**62), 2**62) | st.floats(-9, 9) | st.booleans()


@given(st.dictionaries(st.text("abcdefgh_", min_size=1), numbers, min_size=1, max_size=12))
def test_flexbuffer_map_reads_numbers_of_any_kind(values: dict[str, bool | float]) -> None:
    assert values == flexbuffer_map(flexbuffer(values))


def test_flexbuffer_map_leaves_out_what_is_no_number() -> None:
    assert flexbuffer_map(flexbuffer({"a": 1, "b": "text"})) == {"a": 1}


@pytest.mark.parametrize("data", [b"", b"\0", b"\x05\x04\x01", flexbuffer({"a": 1})[:-3] + b"\xff\x27\x01"])
def test_flexbuffer_map_refuses_what_is_no_map(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"map|cut off"):
        flexbuffer_map(data)


@pytest.mark.parametrize("data", [b"", b"\x08\0\0\0TFL3", b"\x40\0\0\0TFL3" + b"\xff" * 90])
def test_custom_options_refuses_what_is_no_tflite(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"TFL3|cut off"):
        custom_options(data, "anything")


@pytest.mark.data
def test_custom_options_finds_an_operation_by_its_name(data: Path) -> None:
    content = (data / "models" / QUANTIZED).read_bytes()
    options = custom_options(content, POST_PROCESS)
    stated = flexbuffer_map(instance_of(bytes, options))
    assert (stated["num_classes"], stated["y_scale"], stated["h_scale"]) == (90, 10.0, 5.0)
    assert stated["nms_iou_threshold"] == pytest.approx(0.6)
    assert custom_options(content, "another") is None


@pytest.mark.data
def test_read_cuts_the_post_processing_off_and_keeps_what_it_knew(data: Path) -> None:
    source = read_source([data / "models" / QUANTIZED])
    found = instance_of(Recognised, source.recognised)
    assert Ssd(scales=(10.0, 10.0, 5.0, 5.0), activation="sigmoid", background=True) == found.head
    assert (found.classes, found.family.iou, found.family.color) == (90, 0.6, "rgb")
    assert [tuple(o.shape) for o in source.model.outputs] == [(1, 1917, 4), (1, 1917, 91)]
    assert found.priors is not None
    assert found.priors.shape == (1917, 4)
    assert np.allclose(found.priors[0], found.priors[0].clip(0, 1))
    kinds = {n.get_type_name() for n in source.model.get_ops()}
    assert not kinds & {"FakeQuantize", "Sigmoid", "TFFrameworkNode"}


@pytest.mark.data
def test_read_says_that_a_file_is_cut_off(data: Path, tmp_path: Path) -> None:
    content = (data / "models" / QUANTIZED).read_bytes()
    (tmp_path / "half.tflite").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"half\.tflite"):
        read_source([tmp_path / "half.tflite"])


@pytest.mark.data
def test_read_says_that_a_file_is_damaged_inside(data: Path, tmp_path: Path) -> None:
    content = bytearray((data / "models" / QUANTIZED).read_bytes())
    content[-60_000::1000] = b"\xff" * len(content[-60_000::1000])
    (tmp_path / "hurt.tflite").write_bytes(content)
    with pytest.raises(ModelError, match=r"hurt\.tflite: .*(corrupted|damaged)"):
        read_source([tmp_path / "hurt.tflite"])


@pytest.mark.data
def test_read_names_an_option_that_is_not_finite(data: Path, tmp_path: Path) -> None:
    content = (data / "models" / QUANTIZED).read_bytes()
    options = instance_of(bytes, custom_options(content, POST_PROCESS))
    hurt = options.replace(np.float32(5).tobytes(), np.float32(np.nan).tobytes())
    (tmp_path / "hurt.tflite").write_bytes(content.replace(options, hurt))
    with pytest.raises(ModelError, match=r"scale nan[\s\S]*Wanted: h_scale, w_scale"):
        read_source([tmp_path / "hurt.tflite"])


def quantized(low: float, high: float, out_low: float, out_high: float, node: ov.Node) -> ov.Node:
    bounds = [np.float32(x) for x in (low, high, out_low, out_high)]
    return ops.fake_quantize(node, *bounds, 256)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ((0, 5.9997, 0, 5.9997), lambda x: np.clip(x, 0, 6)),
        ((0, 3, 0, 3), lambda x: np.clip(x, 0, 3)),
        ((-7, 9, -7, 9), lambda x: x),
        ((0, 255, -1, 0.9921875), lambda x: x / 128 - 1),
    ],
    ids=["relu6", "an activation", "a linear layer", "the input"],
)
def test_to_float_turns_ranges_into_what_they_stand_for(
    bounds: tuple[int, float, int, float], expected: Callable[..., Any]
) -> None:
    frame = detector_graphs.picture((1, 3, 4, 4))
    model = ov.Model([quantized(*bounds, frame)], [frame], "quantized")
    assert to_float(model)
    values = np.random.default_rng(0).uniform(-9, 9, (1, 3, 4, 4)).astype(np.float32)
    got = ov.Core().compile_model(model, "CPU", EXACT)(values)[0]
    np.testing.assert_allclose(got, expected(values), atol=1e-5)


def test_to_float_makes_weights_of_bytes_and_results_of_floats() -> None:
    frame = detector_graphs.picture((1, 3, 4, 4), ov.Type.u8)
    bytes_ = np.array([[1, 2, 3]], np.uint8).reshape(1, 3, 1, 1)
    kernel = ops.multiply(ops.subtract(ops.convert(bytes_, ov.Type.f32), np.float32(2)), np.float32(0.5))
    start = quantized(0, 255, 0, 255, ops.convert(frame, ov.Type.f32))
    node = ops.convolution(start, kernel, [1, 1], [0, 0], [0, 0], [1, 1])
    model = ov.Model([ops.convert(quantized(-9, 9, 0, 255, node), ov.Type.u8)], [frame], "bytes")
    to_float(model)
    kinds = [n.get_type_name() for n in model.get_ordered_ops()]
    assert "Subtract" not in kinds
    assert model.outputs[0].element_type == ov.Type.f32
    values = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 4), np.uint8)
    expected = 0.5 * (values[0, 2].astype(np.float32) - values[0, 0])
    got = ov.Core().compile_model(model, "CPU", EXACT)(values)[0][0, 0]
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_to_float_leaves_the_scale_of_a_signed_input_open() -> None:
    frame = detector_graphs.picture((1, 3, 4, 4), ov.Type.i8)
    start = quantized(-128, 127, -1, 0.9921875, ops.convert(frame, ov.Type.f32))
    model = ov.Model([ops.multiply(start, np.float32(2))], [frame], "signed")
    to_float(model)
    assert model.inputs[0].element_type == ov.Type.f32
    values = np.random.default_rng(0).uniform(-1, 1, (1, 3, 4, 4)).astype(np.float32)
    got = ov.Core().compile_model(model, "CPU", EXACT)(values)[0]
    np.testing.assert_allclose(got, 2 * values, atol=1e-6)


def test_to_float_says_that_nothing_was_quantized(tmp_path: Path) -> None:
    assert not to_float(detector_graphs.classifier())
