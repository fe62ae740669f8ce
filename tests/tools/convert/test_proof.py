"""Proof of conversion: no false alarm, and each seeded fault is found and placed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

from qzd_ext.errors import ModelError
from qzd_tools.convert.facts import Facts, known
from qzd_tools.convert.inputs import Picture, find_picture
from qzd_tools.convert.preprocess import fold
from qzd_tools.convert.proof import prove, whole_graph
from qzd_tools.convert.run import ConvertOptions, convert
from qzd_tools.graph.walk import cut
from support import detector_graphs

FACTS = known("test", color="rgb", mean=(123.675, 116.28, 103.53), scale=(58.395, 57.12, 57.375))


def seed(tmp_path: Path, facts: Facts = FACTS, constant: float = 0.0) -> tuple[Any, ...]:
    """Write a source and a bundle's graph of it, folded with these facts or with one constant changed."""
    source = detector_graphs.yolo_v8(3)
    ov.save_model(source, tmp_path / "source.xml", compress_to_fp16=False)
    source = ov.Core().read_model(tmp_path / "source.xml")
    raw = source.get_results()[0].input_value(0).get_node().input_value(0)
    whole, names = whole_graph(source, [raw])
    assert whole is not None
    picture = find_picture(source)
    whole = fold(whole, picture, facts)
    bundle = fold(cut(source, [raw]).clone(), picture, facts)
    if constant:
        shifted = ov.opset13.add(bundle.get_results()[0].input_value(0), np.float32(constant))
        bundle = ov.Model([shifted], bundle.get_parameters(), "shifted")
    ov.save_model(bundle, tmp_path / "bundle.xml", compress_to_fp16=False)
    return tmp_path / "source.xml", whole, names, tmp_path / "bundle.xml", picture


def check(parts: tuple[Path, ov.Model, list[str], Path, Picture]) -> dict[str, Any]:
    return dict(prove(*parts, FACTS, rough=False))


def test_proof_is_given_when_nothing_differs(tmp_path: Path) -> None:
    proof = check(seed(tmp_path))
    assert proof["runtime"].startswith("OpenVINO")
    assert proof["difference"] < 1e-4
    assert proof["pictures"] == 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"color": "bgr"}, "they agree with color bgr"),
        ({"mean": (0.0,)}, "they agree with mean 0.0"),
        ({"scale": (1.0,)}, "they agree with scale 1.0"),
        ({"mean": (77.0,)}, "an operation or a constant differs"),
    ],
)
def test_proof_finds_a_fault_of_the_preprocessing_and_places_it(
    tmp_path: Path, fault: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        check(seed(tmp_path, dataclasses.replace(FACTS, **fault)))


def test_proof_finds_a_constant_that_differs_in_the_bundle(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the bundle's file differs from the graph that it was cut from"):
        check(seed(tmp_path, constant=5.0))


@pytest.mark.parametrize("model", ["yolov8n.onnx", "yolox_nano.onnx", "mobilenet_v2_1.0_224.onnx"])
def test_onnxruntime_proves_real_models(data: Path, tmp_path: Path, model: str) -> None:
    labels = "imagenet" if "mobilenet" in model else "coco80"
    bundle = convert([data / "models" / model], tmp_path / "bundle", ConvertOptions(labels=labels))
    proof = bundle.manifest.provenance.proof
    assert str(proof.get("runtime")).startswith("onnxruntime"), proof
    assert any(note.startswith("proven: onnxruntime") for note in bundle.manifest.provenance.notes)


def test_proof_says_why_there_is_none(tmp_path: Path) -> None:
    whole, names = whole_graph(detector_graphs.yolo_v8(3), [])
    picture = Picture(0, "NCHW", 64, 64, FACTS, False)
    proof = prove(tmp_path / "absent.cfg", whole, names, tmp_path / "b.xml", picture, FACTS, rough=False)
    assert "does not run in its own runtime" in str(proof["unproven"])
