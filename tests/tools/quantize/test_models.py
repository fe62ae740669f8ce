"""The real models of QZD_DATA: the default recipe, without flags, costs nothing that matters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import openvino as ov
import pytest

from qzd_ext.bundle import Bundle
from qzd_ext.detector import Detector
from qzd_tools.convert.run import convert
from qzd_tools.data.coco import Dataset, read_coco
from qzd_tools.data.imagenet import read_imagenet
from qzd_tools.data.images import list_images
from qzd_tools.graph.structure import find_head
from qzd_tools.quantize.run import Gate, Mode, Quantized, quantize

pytestmark = [pytest.mark.data, pytest.mark.models]

DETECTORS = (
    "models/yolox_nano.onnx",
    "models/yolov8n.onnx",
    "darknet/yolo-fastest-1.1-xl.cfg",
    "models/ssd_mobilenet_v1_coco.xml",
    "models/ssd_mobilenet_v1_coco_quant_detect.tflite",
    "models/person-detection-0200/FP16/person-detection-0200.xml",
)
CLASSIFIER = "models/mobilenet_v2_1.0_224.onnx"
Maker = Callable[[str, Mode], Quantized]


@pytest.fixture
def made(data: Path, tmp_path: Path) -> Maker:
    """Convert a model and quantize it with all defaults, with its accuracy before and after."""

    def make(path: str, mode: Mode) -> Quantized:
        parent = convert([data / path], tmp_path / "float")
        if path == CLASSIFIER:
            dataset: Dataset = read_imagenet(
                data / "imagenet" / "labels.txt", None, parent.manifest.labels.names
            )
        else:
            dataset = read_coco(data / "coco" / "validation" / "instances.json")
        images = list_images(data / "coco" / "calibration" / "images")
        return quantize(parent, tmp_path / mode, mode=mode, images=images, gate=Gate(dataset=dataset))

    return make


def drop(result: Quantized) -> float:
    assert result.before is not None
    assert result.after is not None
    return result.before.score.main - result.after.score.main


def size(bundle: Bundle) -> int:
    return (bundle.path / "model.bin").stat().st_size


@pytest.mark.parametrize("path", DETECTORS)
def test_int8_by_the_default_recipe_keeps_the_boxes(made: Maker, path: str) -> None:
    result = made(path, "int8")
    assert drop(result) <= 0.005
    with Detector(result.bundle) as detector:
        assert detector.self_test() == []


def test_int8_by_the_default_recipe_keeps_the_classes(made: Maker) -> None:
    assert drop(made(CLASSIFIER, "int8")) <= 3 / 250


@pytest.mark.parametrize("path", ["models/yolox_nano.onnx", "models/ssd_mobilenet_v1_coco.xml", CLASSIFIER])
@pytest.mark.parametrize(("mode", "part"), [("int8-weights", 0.25), ("fp16", 0.5)])
def test_modes_without_data_keep_accuracy_and_are_smaller(
    made: Maker, path: str, mode: Mode, part: float
) -> None:
    result = made(path, mode)
    assert abs(drop(result)) <= 0.003 + (1 / 250 if path == CLASSIFIER else 0)
    assert size(result.bundle) / size(result.parent) == pytest.approx(part, abs=0.03)


@pytest.mark.parametrize("path", [*DETECTORS, CLASSIFIER])
def test_the_head_of_every_real_model_is_found(data: Path, tmp_path: Path, path: str) -> None:
    """A few layers at the end, and arithmetic that holds no layer."""
    bundle = convert([data / path], tmp_path / "float")
    head = find_head(ov.Core().read_model(bundle.model))
    assert 1 <= len(head.layers) <= 12
    assert head.weights < 0.4
