"""Inputs: shape, layout, normalisation, and how frames are resized into them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openvino import opset13 as ops

from qzd_ext.errors import ModelError, UsageError
from qzd_tools.convert.facts import known
from qzd_tools.convert.inputs import find_picture, make_static
from qzd_tools.convert.preprocess import fold, input_of
from qzd_tools.convert.run import ConvertOptions, convert
from support import detector_graphs

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
UNIT = tuple(np.float32(x) for x in (0, 1, 0, 1))


def convolved(
    shape: list[int],
    kind: ov.Type = ov.Type.f32,
    before: Callable[[ov.Node], ov.Node] = lambda node: node,
) -> ov.Model:
    """Build a graph of a picture that goes through `before` and then a convolution."""
    frame = detector_graphs.picture(shape, kind)
    node = before(frame if kind == ov.Type.f32 else ops.convert(frame, ov.Type.f32))
    if shape[3] == 3:
        node = ops.transpose(node, np.array([0, 3, 1, 2]))
    kernel = ops.constant(np.ones((1, 3, 1, 1), np.float32))
    return ov.Model([ops.convolution(node, kernel, [1, 1], [0, 0], [0, 0], [1, 1])], [frame], "convolved")


@pytest.mark.parametrize(
    ("shape", "wanted", "found"),
    [
        ([1, 3, 48, 64], None, ("NCHW", 64, 48)),
        ([1, 48, 64, 3], None, ("NHWC", 64, 48)),
        ([-1, 3, 48, 64], None, ("NCHW", 64, 48)),
        ([-1, 3, -1, -1], (32, 40), ("NCHW", 40, 32)),
        ([-1, -1, -1, 3], (1, 32, 40, 3), ("NHWC", 40, 32)),
        ([1, 3, 48, 64], (32, 40), ("NCHW", 40, 32)),
        ([-1, -1, -1, -1], (1, 3, 32, 40), ("NCHW", 40, 32)),
    ],
    ids=["nchw", "nhwc", "open batch", "open size", "all four dimensions", "another size", "all open"],
)
def test_make_static_fixes_one_picture(
    shape: list[int], wanted: tuple[int, ...] | None, found: tuple[str, int, int]
) -> None:
    model = convolved(shape)
    make_static(model, wanted)
    picture = find_picture(model)
    assert found == (picture.layout, picture.width, picture.height)
    assert model.inputs[0].shape[0] == 1


def test_make_static_takes_the_size_of_training_when_the_model_leaves_it_open() -> None:
    model = convolved([1, 3, -1, -1])
    make_static(model, None, (32, 40))
    assert find_picture(model).height == 32


def test_make_static_asks_for_a_size_when_nothing_says_it() -> None:
    with pytest.raises(UsageError, match="--shape HEIGHT,WIDTH"):
        make_static(convolved([1, 3, -1, -1]), None)


def test_make_static_refuses_a_shape_that_the_graph_cannot_take() -> None:
    with pytest.raises(ModelError, match="leave --shape out"):
        make_static(detector_graphs.yolox(), (48, 48))


@pytest.mark.parametrize("shape", [[1, 4, 8, 8], [1, 3, 8], [1, 8, 8, 1], [-1, -1, -1, -1]])
def test_make_static_says_what_there_is_when_no_input_is_a_picture(shape: list[int]) -> None:
    frame = ops.parameter(shape, np.float32, "odd")
    with pytest.raises(ModelError, match="which input is the picture"):
        make_static(ov.Model([ops.relu(frame)], [frame], "odd"), None)


def test_make_static_refuses_a_second_input() -> None:
    frames = [detector_graphs.picture(), ops.parameter([1, 3, 64, 64], np.float32)]
    with pytest.raises(ModelError, match="which input"):
        make_static(ov.Model([ops.add(*frames)], frames, "two"), None)


def reversed_channels(node: ov.Node) -> ov.Node:
    return ops.gather(node, ops.constant(np.array([2, 1, 0])), ops.constant(np.int64(1)))


@pytest.mark.parametrize(
    ("kind", "before", "expected"),
    [
        (ov.Type.f32, lambda n: n, (None, None, None)),
        (ov.Type.u8, lambda n: n, (None, (0.0,), (1.0,))),
        (ov.Type.f32, lambda n: ops.multiply(n, np.float32(1 / 255)), (None, (0.0,), (1.0,))),
        (ov.Type.f32, lambda n: ops.divide(ops.subtract(n, np.float32(0.45)), np.float32(0.22)), (None,) * 3),
        (ov.Type.f32, lambda n: ops.multiply(n, np.float32(255)), (None, None, None)),
        (ov.Type.f32, lambda n: ops.multiply(ops.fake_quantize(n, *UNIT, 256), np.float32(1)), (None,) * 3),
        (ov.Type.f32, reversed_channels, ("bgr", None, None)),
        (ov.Type.f32, lambda n: ops.subtract(reversed_channels(n), np.float32(120)), ("bgr", (0.0,), (1.0,))),
        (ov.Type.f32, lambda n: ops.subtract(n, np.float32(0.5)), (None, None, None)),
        (ov.Type.f32, lambda n: ops.multiply(n, ops.sigmoid(n)), (None, None, None)),
    ],
    ids=[
        "plain", "bytes", "scaled", "normalised from 0..1", "scaled from 0..1", "quantized",
        "reversed", "reversed and shifted", "shifted in 0..1", "its own product",
    ],
)
def test_find_picture_says_what_the_first_operations_say(
    kind: ov.Type,
    before: Callable[[ov.Node], ov.Node],
    expected: tuple[str | None, tuple[float, ...] | None, tuple[float, ...] | None],
) -> None:
    facts = find_picture(convolved([1, 3, 8, 8], kind, before)).facts
    assert expected == (facts.color, facts.mean, facts.scale)


@settings(max_examples=15)
@given(
    nhwc=st.booleans(),
    color=st.sampled_from(["rgb", "bgr"]),
    mean=st.sampled_from([(0.0,), (127.5,), (123.5, 116.25, 103.0)]),
    scale=st.sampled_from([(1.0,), (255.0,), (58.5, 57.0, 57.5)]),
    seed=st.integers(0, 99),
)
def test_fold_does_what_the_model_was_trained_with(
    nhwc: bool, color: str, mean: tuple[float, ...], scale: tuple[float, ...], seed: int
) -> None:
    shape = [1, 6, 5, 3] if nhwc else [1, 3, 6, 5]
    weights = np.array([0.5, -1.0, 2.0], np.float32).reshape(1, 3, 1, 1)
    frame = detector_graphs.picture(shape)
    planes = ops.transpose(frame, np.array([0, 3, 1, 2])) if nhwc else frame
    node = ops.convolution(planes, ops.constant(weights), [1, 1], [0, 0], [0, 0], [1, 1])
    model = ov.Model([node], [frame], "weighted")
    picture = find_picture(model)
    folded = fold(model, picture, known("here", color=color, mean=mean, scale=scale))
    assert (ov.Type.u8, [1, 6, 5, 3]) == (folded.inputs[0].element_type, list(folded.inputs[0].shape))
    pixels = np.random.default_rng(seed).integers(0, 256, (1, 6, 5, 3), np.uint8)
    ordered = pixels[..., ::-1] if color == "rgb" else pixels
    normal = (ordered.astype(np.float32) - np.array(mean)) / np.array(scale)
    expected = (normal * weights.reshape(1, 1, 1, 3)).sum(-1)
    got = ov.Core().compile_model(folded, "CPU", EXACT)(pixels)[0][:, 0]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)


def test_fold_gives_float32_when_the_model_gives_something_else() -> None:
    frame = detector_graphs.picture([1, 3, 4, 4], ov.Type.f16)
    model = ov.Model([ops.multiply(frame, np.float16(2))], [frame], "half")
    folded = fold(model, find_picture(model), known("here", color="bgr", mean=(0.0,), scale=(1.0,)))
    assert folded.outputs[0].element_type == ov.Type.f32


def test_input_of_crops_from_the_usual_short_side() -> None:
    picture = find_picture(convolved([1, 3, 224, 224]))
    spec = input_of(picture, known("here", resize="crop"))
    assert (spec.width, spec.height, spec.resize, spec.short_side) == (224, 224, "crop", 256)


def test_input_of_asks_how_frames_are_resized() -> None:
    with pytest.raises(UsageError, match="--resize"):
        input_of(find_picture(convolved([1, 3, 8, 8])), known("here", color="rgb"))


@pytest.mark.parametrize("kind", [ov.Type.u8, ov.Type.i32], ids=["bytes", "whole numbers"])
@pytest.mark.parametrize(
    ("stated", "info", "words"),
    [
        ({}, {}, "the model takes bytes and normalises them itself"),
        ({"mean": (0.0,), "scale": (1.0,)}, {}, "as asked for"),
        ({}, {"scale_values": "255"}, "itself; scale 255 of its metadata would come on top, and is left out"),
        ({"mean": (127.5,), "scale": (127.5,)}, {}, None),
    ],
    ids=["nothing", "neutral flags", "metadata", "flags"],
)
def test_convert_gives_bytes_as_they_are_to_a_model_that_takes_them(
    tmp_path: Path,
    stated: dict[str, Any],
    info: dict[str, str],
    words: str | None,
    kind: ov.Type,
) -> None:
    """Arithmetic before it would be rounded to bytes again, and the model be blind."""
    frame = detector_graphs.picture((1, 3, 8, 8), kind)
    values = ops.reduce_mean(ops.convert(frame, ov.Type.f32), np.array([2, 3]))
    model = ov.Model([ops.softmax(values, 1)], [frame], "bytes")
    for key, value in info.items():
        model.set_rt_info(value, ["model_info", key])
    ov.save_model(model, tmp_path / "m.xml")
    options = ConvertOptions(labels="a,b,c", color="rgb", resize="stretch", **stated)
    said: list[str] = []
    if words is None:
        with pytest.raises(UsageError, match=r"--mean 127.5 and --scale 127.5, but the model takes bytes"):
            convert([tmp_path / "m.xml"], tmp_path / "bundle", options)
        return
    convert([tmp_path / "m.xml"], tmp_path / "bundle", options, said.append)
    assert any(words in text for text in said)


@pytest.mark.parametrize(
    ("given", "words"), [({}, "short_side 73: a central crop"), ({"short_side": 64}, "short_side 64")]
)
def test_convert_tells_the_short_side_of_a_crop(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    ov.save_model(detector_graphs.classifier(5), tmp_path / "m.xml")
    options = ConvertOptions(
        labels="a,b,c,d,e", color="rgb", mean=(0.0,), scale=(1.0,), resize="crop", **given
    )
    said: list[str] = []
    convert([tmp_path / "m.xml"], tmp_path / "bundle", options, said.append)
    assert any(words in text for text in said), said
