"""What lies beside a model or inside its file: metadata, labels, external data, and folders."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import openvino as ov
import pytest

from qzd_ext.errors import ModelError
from qzd_tools.convert.formats.sidecar import labels_inside, properties_of
from qzd_tools.convert.labels import load
from qzd_tools.convert.run import convert
from support import detector_graphs

METADATA = """description: Ultralytics YOLOv8n model trained on nuts.yaml
stride: 32
task: detect
imgsz:
- 64
- 64
names:
  0: hex nut
  1: 'bolt: long'
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder as Ultralytics' export to OpenVINO does."""
    folder = tmp_path / "nuts_openvino_model"
    folder.mkdir()
    ov.save_model(detector_graphs.yolo_v8(2), folder / "nuts.xml")
    return folder


def test_convert_reads_the_metadata_beside_an_ir(folder: Path, tmp_path: Path) -> None:
    (folder / "metadata.yaml").write_text(METADATA)
    manifest = convert([folder / "nuts.xml"], tmp_path / "bundle").manifest
    assert manifest.labels.names == ("hex nut", "bolt: long")


def test_convert_takes_a_folder_with_one_model(folder: Path, tmp_path: Path) -> None:
    (folder / "metadata.yaml").write_text(METADATA)
    assert convert([folder], tmp_path / "bundle").manifest.name == "nuts"


def test_convert_takes_the_label_file_of_a_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "labels.txt").write_text("nut\nbolt\n")
    bundle = convert([folder], tmp_path / "bundle")
    assert bundle.manifest.labels.names == ("nut", "bolt")
    assert any("labels.txt beside the model" in note for note in bundle.manifest.provenance.notes)


def test_convert_refuses_a_folder_with_two_models(folder: Path, tmp_path: Path) -> None:
    ov.save_model(detector_graphs.yolo_v8(2), folder / "other.xml")
    with pytest.raises(ModelError, match=r"a directory with nuts\.xml, other\.xml"):
        convert([folder], tmp_path / "bundle")


def test_metadata_in_a_tflite_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(b"TFL3" + bytes(60))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("metadata.json", json.dumps({"stride": 32, "names": {"0": "a", "1": "b"}}))
    assert properties_of(path)["names"] == "{'0': 'a', '1': 'b'}"


def test_names_by_text_keys_are_in_the_order_of_their_numbers(folder: Path, tmp_path: Path) -> None:
    ov.save_model(detector_graphs.yolo_v8(12), folder / "nuts.xml")
    names = {str(i): f"n{i}" for i in range(12)}
    (folder / "metadata.json").write_text(json.dumps({"stride": 32, "names": names}))
    assert convert([folder], tmp_path / "bundle").manifest.labels.names == tuple(names.values())


def test_older_metadata_in_a_tflite_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(b"TFL3" + bytes(60))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("temp_meta.txt", "{'stride': 32, 'names': {0: 'a'}}")
    assert properties_of(path)["names"] == "{0: 'a'}"


def test_labels_in_a_tflite_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(b"TFL3" + bytes(60))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labelmap.txt", "a\nb\n")
    found = labels_inside(path)
    assert found.labels is not None
    assert found.labels.names == ("a", "b")


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("labels.txt", "0 person\n1 cat\n", ("person", "cat")),
        ("labels.txt", "1: cat\n0: person\n", ("person", "cat")),
        ("labels.txt", "10 euro\n20 euro\n", ("10 euro", "20 euro")),
        ("labels.json", '{"0": "a", "1": "b"}', ("a", "b")),
        ("labels.json", '["a", "b"]', ("a", "b")),
        ("data.yaml", "path: x\nnames:\n  0: a\n  1: b  # two\nnc: 2\n", ("a", "b")),
        ("data.yaml", "names: ['a', \"b\"]\nnc: 2\n", ("a", "b")),
        ("data.yaml", "nc: 2\nnames:\n- a\n- b\n", ("a", "b")),
    ],
)
def test_label_files_of_every_form_are_read(
    tmp_path: Path, name: str, content: str, names: tuple[str, ...]
) -> None:
    (tmp_path / name).write_text(content)
    assert load(str(tmp_path / name)).names == names


def test_convert_names_the_external_data_that_is_missing(tmp_path: Path) -> None:
    """Write an ONNX file whose tensor is in a file of its own, only by protobuf's bytes."""
    entry = b"\x0a\x08location\x12\x0cweights.data"
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08" + entry)
    with pytest.raises(ModelError, match=r"weights\.data, which holds its weights, is missing"):
        convert([tmp_path / "m.onnx"], tmp_path / "bundle")
