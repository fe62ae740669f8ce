"""Model files of each framework, and messages about files that are missing or damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
from onnx import TensorProto, helper

from qzd_ext.bundle import sha256_of
from qzd_ext.detector import Detector
from qzd_ext.errors import ModelError, UsageError
from qzd_tools.convert.formats.read import read_source
from qzd_tools.convert.run import ConvertOptions, convert
from support import detector_graphs, protobuf

weights = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
STATED = ConvertOptions(labels="a,b,c,d,e", color="rgb", mean=(0.0,), scale=(255.0,), resize="stretch")


def tensorflow(folder: Path) -> Path:
    (folder / "frozen.pb").write_bytes(protobuf.tensorflow_graph(weights))
    return folder / "frozen.pb"


def saved_model(folder: Path) -> Path:
    protobuf.write_saved_model(folder / "saved", weights)
    return folder / "saved"


def paddle(folder: Path) -> Path:
    protobuf.write_paddle(folder / "paddle.pdmodel", weights.T)
    return folder / "paddle.pdmodel"


def ir(folder: Path) -> Path:
    ov.save_model(detector_graphs.classifier(5), folder / "ir.xml", compress_to_fp16=False)
    return folder / "ir.xml"


@pytest.mark.parametrize("name", ["m.onnx.data", "n" * 200])
def test_read_source_hashes_the_files_that_hold_an_onnx_models_tensors(tmp_path: Path, name: str) -> None:
    """The hash of the weights shows that they were changed after the model was converted."""
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [3, 5], weights.tobytes(), raw=True)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, s]) for n, s in (("x", 3), ("y", 5))]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location=name, size_threshold=0)
    before = read_source([tmp_path / "m.onnx"]).files
    (tmp_path / name).write_bytes((weights + 1).tobytes())
    after = read_source([tmp_path / "m.onnx"]).files
    assert before.keys() == after.keys() == {"m.onnx", name}
    assert [n for n in after if after[n] != before[n]] == [name]


@pytest.mark.parametrize(
    ("write", "format_name"),
    [
        (tensorflow, "TensorFlow frozen graph"),
        (saved_model, "TensorFlow SavedModel"),
        (paddle, "PaddlePaddle"),
    ],
)
def test_convert_reads_what_frameworks_write(
    tmp_path: Path, write: Callable[..., Any], format_name: str
) -> None:
    said: list[str] = []
    bundle = convert([write(tmp_path)], tmp_path / "bundle", STATED, said.append)
    assert f"source: {format_name}" in said
    size = bundle.manifest.input.width
    frame = np.full((size, size, 3), (10, 60, 250), np.uint8)
    with Detector(bundle) as detector:
        found = detector.detect(frame).found
    logits = np.array([250, 60, 10]) / 255 @ weights
    expected = np.exp(logits) / np.exp(logits).sum()
    assert np.argsort(-expected).tolist() == found.class_ids.tolist()
    np.testing.assert_allclose(found.scores, np.sort(expected)[::-1], atol=2e-3)


def test_read_source_names_every_file_with_its_hash(tmp_path: Path) -> None:
    source = read_source([saved_model(tmp_path)])
    assert source.files == {"saved_model.pb": sha256_of(tmp_path / "saved" / "saved_model.pb")}
    assert read_source([tmp_path / "saved" / "saved_model.pb"]).files == source.files
    source = read_source([paddle(tmp_path)])
    assert set(source.files) == {"paddle.pdmodel", "paddle.pdiparams"}
    assert (source.name, source.format) == ("paddle", "PaddlePaddle")


def test_read_source_takes_weights_from_elsewhere_when_they_are_named(tmp_path: Path) -> None:
    xml = ir(tmp_path)
    (tmp_path / "ir.bin").rename(tmp_path / "elsewhere.bin")
    assert set(read_source([xml, tmp_path / "elsewhere.bin"]).files) == {"ir.xml", "elsewhere.bin"}


def test_read_source_says_which_weights_are_missing(tmp_path: Path) -> None:
    xml = ir(tmp_path)
    (tmp_path / "ir.bin").unlink()
    with pytest.raises(ModelError, match=r"ir\.bin is not there"):
        read_source([xml])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["model.h5"], "which model is meant by model.h5"),
        (["a.onnx", "b.onnx"], "which model is meant"),
        (["a.onnx", "b.bin"], "b.bin does not belong to a.onnx"),
        (["a.cfg", "b.bin"], "a .weights file"),
    ],
)
def test_read_source_says_what_it_takes_when_files_do_not_fit(names: list[str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_source([Path(n) for n in names])
    assert words in str(caught.value)


def test_read_source_says_that_a_file_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read_source([tmp_path / "gone.onnx"])


def test_read_source_says_that_a_directory_is_no_saved_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"without a model or saved_model\.pb"):
        read_source([tmp_path])


def test_read_source_says_that_a_directory_is_a_bundle_already(tmp_path: Path) -> None:
    (tmp_path / "bundle.toml").touch()
    for path in (tmp_path, tmp_path / "model.xml"):
        path.touch()
        with pytest.raises(UsageError, match="a bundle already"):
            read_source([path])


@pytest.mark.parametrize("name", ["x.onnx", "x.pb", "x.tflite", "x.xml", "x.pdmodel"])
def test_read_source_says_that_a_file_is_damaged(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x00\x01damaged" * 40)
    for suffix in (".bin", ".pdiparams"):
        (tmp_path / "x").with_suffix(suffix).write_bytes(b"")
    with pytest.raises(ModelError, match=name) as caught:
        read_source([tmp_path / name])
    assert "Exception from" not in str(caught.value)


def test_read_source_names_the_operation_that_has_no_translator(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("a", "b")]
    node = helper.make_node("Sparkle", ["a"], ["b"], domain="mine")
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    versions = [helper.make_opsetid("mine", 1), helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=versions), tmp_path / "odd.onnx")
    with pytest.raises(ModelError, match=r"odd\.onnx: .*mine\.Sparkle"):
        read_source([tmp_path / "odd.onnx"])
