"""The real models of QZD_DATA: each converts without flags, and is as good as its reference says."""

from __future__ import annotations

from pathlib import Path

import pytest

from qzd_ext.bundle import Bundle
from qzd_ext.detector import Detector
from qzd_ext.errors import UsageError
from qzd_tools.convert.run import ConvertOptions, convert
from qzd_tools.data.coco import read_coco
from qzd_tools.data.imagenet import read_imagenet
from qzd_tools.validate.run import validate, validation_thresholds
from support.results import as_detections
from support.tiny_model import decode

pytestmark = pytest.mark.data

TOLERANCE = 0.004
MODELS = {
    "models/ssd_mobilenet_v1_coco.xml": ("detection_output", 0.2216),
    "models/yolox_nano.onnx": ("yolox", 0.3121),
    "models/yolov8n.onnx": ("yolo_v8_raw", 0.4116),
    "darknet/yolo-fastest-1.1-xl.cfg": ("yolo_anchor", 0.2095),
    "models/person-detection-0200/FP16/person-detection-0200.xml": ("detection_output", 0.1663),
    "models/person-detection-0200/FP16-INT8/person-detection-0200.xml": ("detection_output", 0.1610),
    "models/ssd_mobilenet_v1_coco_quant_detect.tflite": ("ssd", 0.2201),
}
"""By path: the head that is recognised, and the mAP that others measured; of the .tflite, ours."""


def head_of(bundle: Bundle) -> str:
    return next(str(n).split(": ")[1] for n in bundle.manifest.provenance.notes if n.startswith("head: "))


@pytest.mark.parametrize("path", MODELS)
def test_a_real_model_converts_without_flags(data: Path, tmp_path: Path, path: str) -> None:
    bundle = convert([data / path], tmp_path / "bundle", ConvertOptions(confidence=0.2))
    assert head_of(bundle) == MODELS[path][0]
    assert bundle.manifest.precision == ("int8" if "INT8" in path else "fp32")
    files = sorted((data / "coco" / "validation" / "images").iterdir())[:4]
    with Detector(bundle) as detector:
        assert any(len(detector.detect(decode(file.read_bytes())).found) for file in files)


def test_the_frozen_graph_asks_for_its_labels_alone(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        convert([data / "models" / "mobilenet_ssd_256res_0.125_person_cat_dog.pb"], tmp_path / "bundle")
    assert "its labels" in str(caught.value)
    assert "--color" not in str(caught.value)


@pytest.mark.system
@pytest.mark.parametrize("path", MODELS)
def test_a_real_model_is_as_good_as_its_reference(data: Path, tmp_path: Path, path: str) -> None:
    bundle = convert([data / path], tmp_path / "bundle")
    dataset = read_coco(data / "coco" / "validation" / "instances.json")
    thresholds = validation_thresholds(bundle.manifest, 0.001, 0.65, 300)
    result = validate(bundle, dataset, thresholds)
    assert result.score.metrics["map"] == pytest.approx(MODELS[path][1], abs=TOLERANCE)
    assert result.images == 202


@pytest.mark.system
def test_a_real_classifier_is_as_good_as_its_reference(data: Path, tmp_path: Path) -> None:
    bundle = convert([data / "models" / "mobilenet_v2_1.0_224.onnx"], tmp_path / "bundle")
    images = data / "imagenet"
    dataset = read_imagenet(images / "labels.txt", images / "images", bundle.manifest.labels.names)
    metrics = validate(bundle, dataset).score.metrics
    assert metrics["top1"] == pytest.approx(0.892, abs=0.01)
    assert metrics["top5"] == pytest.approx(0.980, abs=0.01)


@pytest.mark.system
def test_the_raw_cut_of_yolov8_loses_nothing(data: Path, tmp_path: Path) -> None:
    model = data / "models" / "yolov8n.onnx"
    raw = convert([model], tmp_path / "raw")
    whole = convert([model], tmp_path / "whole", ConvertOptions(head="yolo_v8"))
    frame = decode(sorted((data / "coco" / "validation" / "images").iterdir())[3].read_bytes())
    with Detector(raw) as one, Detector(whole) as other:
        a, b = (as_detections(detector.detect(frame).found) for detector in (one, other))
    assert a.class_ids.tolist() == b.class_ids.tolist()
    assert abs(a.boxes - b.boxes).max() < 0.5
    assert abs(a.scores - b.scores).max() < 1e-3
