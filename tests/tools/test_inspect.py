"""`inspect` of bundles and of models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from qzd_ext.errors import ModelError
from qzd_tools.cli import main
from qzd_tools.convert.run import ConvertOptions
from qzd_tools.inspection import inspect_bundle, inspect_source


@pytest.fixture(scope="module")
def mixed_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a classifier with a float, a half, a stored-i8 and a fully quantized convolution."""
    picture = ops.parameter([1, 3, 8, 8], np.float32, name="picture")
    weights = np.linspace(-1, 1, 27).reshape(3, 3, 3, 1).astype(np.float32)

    def convolve(source: ov.Output, kernel: ov.Output) -> ov.Output:
        return ops.convolution(source, kernel, [1, 1], [0, 0], [1, 0], [1, 1]).output(0)

    def limits(low: float, high: float) -> list[ov.Node]:
        return [ops.constant(np.float32(v)) for v in (low, high, low, high)]

    one = convolve(picture.output(0), ops.constant(weights).output(0))
    half = ops.convert(ops.constant(weights.astype(np.float16)), "f32")
    two = convolve(one, half.output(0))
    eight = ops.convert(ops.constant((weights * 127).astype(np.int8)), "f32")
    stored = ops.multiply(eight, np.float32(1 / 127))
    three = convolve(two, stored.output(0))
    rounded = ops.fake_quantize(three, *limits(-4, 4), 256)
    kernel = ops.fake_quantize(ops.constant(weights), *limits(-1, 1), 255)
    four = convolve(rounded.output(0), kernel.output(0))
    path = tmp_path_factory.mktemp("mixed") / "mixed.xml"
    result = ops.softmax(ops.reduce_mean(four, np.array([2, 3]), keep_dims=False), 1)
    ov.save_model(ov.Model([result], [picture], "mixed"), path, compress_to_fp16=False)
    return path


def test_inspect_source_gives_the_precision_of_each_layer(mixed_model: Path) -> None:
    found = inspect_source([mixed_model], ConvertOptions())
    pairs = [(layer.weights, layer.activations) for layer in found.layers]
    assert pairs == [("f32", "float"), ("f16", "float"), ("i8", "float"), ("i8", "int8")]
    assert found.operations["Convolution"] == 4


def test_inspect_source_gives_what_convert_lacks_when_it_cannot_infer(mixed_model: Path) -> None:
    found = inspect_source([mixed_model], ConvertOptions())
    assert found.manifest is None
    assert found.verified is None
    assert "--color" in found.problem


def test_inspect_bundle_gives_its_manifest_and_digest(tiny_bundle: Path) -> None:
    found = inspect_bundle(tiny_bundle)
    assert found.verified is True
    assert found.manifest is not None
    assert found.manifest.name == "tiny"
    assert found.digest.startswith("sha256:")
    assert [tensor.shape for tensor in (*found.inputs, *found.outputs)] == ["[1,64,64,3]", "[1,7,64]"]


def test_inspect_says_which_file_is_wrong_when_a_bundle_was_edited(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "edited")
    (tmp_path / "edited" / "labels.txt").write_text("red\ngreen\nblue\n")
    assert main(["inspect", str(tmp_path / "edited"), "--json", str(tmp_path / "i.json")]) == 3
    assert json.loads((tmp_path / "i.json").read_text())["verified"] is False
    said = capsys.readouterr()
    assert "verified    NO" in said.out
    assert "labels.txt has sha256" in said.out


def test_inspect_says_that_nothing_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "model.onnx")]) == 3
    assert "model.onnx: no such file or directory" in capsys.readouterr().err


def test_inspect_source_names_the_file_when_it_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"model\.onnx"):
        inspect_source([tmp_path / "model.onnx"], ConvertOptions())


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("models/yolox_nano.onnx", ["ONNX", "yolox: strides (8, 16, 32)", "f32 weights and float input"]),
        ("models/person-detection-0200/FP16-INT8", ["OpenVINO IR", "detection_output", "i8 weights"]),
    ],
)
def test_inspect_says_what_a_real_model_is(
    data: Path, capsys: pytest.CaptureFixture[str], source: str, words: list[str]
) -> None:
    path = data / source
    assert main(["inspect", str(next(path.glob("*.xml")) if path.is_dir() else path)]) == 0
    said = capsys.readouterr().out
    assert [word for word in words if word not in said] == []


def test_inspect_lists_layers_when_asked(mixed_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(mixed_model), "--layers"]) == 0
    assert capsys.readouterr().out.count(" Convolution ") == 4
