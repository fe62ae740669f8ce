"""The kernels on what real models give for real pictures: against the oracle, and against OpenCV's NMS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import oracle
from qzd_ext._nms import nms
from qzd_ext.bundle import Bundle
from qzd_ext.decode import Decoder
from qzd_ext.detections import Classes, FloatArray
from qzd_ext.geometry import prepare
from qzd_ext.manifest import Classification, DetectionOutput, Thresholds
from qzd_ext.runner import Runner, RunOptions
from qzd_tools.convert.run import ConvertOptions, convert
from support.head_cases import plain
from support.results import as_classes, as_detections
from support.tiny_model import decode

OPENCV_NMS: Callable[..., Any] = cv2.dnn.NMSBoxesBatched  # its stub knows only lists
PETS = "person\ncat\ndog\n"
MODELS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "yolov8n": (["models/yolov8n.onnx"], {"labels": "coco80"}),
    "yolox_nano": (["models/yolox_nano.onnx"], {"labels": "coco80"}),
    "yolo-fastest": (["darknet/yolo-fastest-1.1-xl.cfg", "darknet/yolo-fastest-1.1-xl.weights"], {}),
    "ssd tflite": (["models/ssd_mobilenet_v1_coco_quant_detect.tflite"], {}),
    "ssd frozen graph": (["models/mobilenet_ssd_256res_0.125_person_cat_dog.pb"], {"labels": PETS}),
    "ssd IR": (["models/ssd_mobilenet_v1_coco.xml"], {"labels": "coco91", "resize": "stretch"}),
    "classifier": (["models/mobilenet_v2_1.0_224.onnx"], {"labels": "imagenet"}),
}


@pytest.fixture(scope="module", params=MODELS)
def seen(
    request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, list[list[FloatArray]]]:
    """Convert a model; returns it, and its results for two pictures."""
    paths, stated = MODELS[request.param]
    folder = tmp_path_factory.mktemp("real")
    if "\n" in stated.get("labels", ""):
        (folder / "labels.txt").write_text(stated["labels"])
        stated = stated | {"labels": str(folder / "labels.txt")}
    bundle = convert([data / path for path in paths], folder / "bundle", ConvertOptions(**stated))
    runner = Runner(bundle.model, RunOptions(requests=1))
    results = []
    for path in sorted((data / "coco/validation/images").glob("*.jpg"))[8:10]:
        slot = runner.acquire()
        assert slot is not None
        prepare(decode(path.read_bytes()), bundle.manifest.input, slot.input)
        slot.infer()
        results.append([np.array(output) for output in slot.outputs])
        runner.release(slot)
    runner.close()
    return bundle, results


def expected_of(bundle: Bundle, tensors: list[FloatArray], thresholds: Thresholds) -> oracle.Found:
    manifest = bundle.manifest
    if isinstance(manifest.head, DetectionOutput):
        rows = tensors[0][0, 0]
        ends = np.flatnonzero(rows[:, 0] < 0)
        rows = rows[: ends[0]] if len(ends) else rows
        size = (manifest.input.width, manifest.input.height)
        return oracle.final_boxes(rows, thresholds, 2, 1, (3, 4, 5, 6), size, manifest.head.first_label)
    return oracle.decode(manifest, tensors, thresholds, bundle.priors)


@pytest.mark.parametrize(
    "thresholds",
    [Thresholds(), Thresholds(nms="diou"), Thresholds(confidence=0.001, iou=0.65, multi_label=True)],
    ids=["serving", "diou", "validation"],
)
def test_decode_gives_what_the_oracle_gives_of_real_tensors(
    seen: tuple[Bundle, list[list[FloatArray]]], thresholds: Thresholds
) -> None:
    bundle, results = seen
    manifest = bundle.manifest
    limit = [manifest.input.width, manifest.input.height] * 2
    for tensors in results:
        decoder = Decoder(manifest, [t.shape for t in tensors], bundle.priors)
        result = decoder.decode(tensors, plain(manifest), thresholds)
        if isinstance(manifest.head, Classification):
            check_classes(manifest.head, tensors[0][0], as_classes(result))
            continue
        found = as_detections(result)
        expected = expected_of(bundle, tensors, thresholds)
        assert expected.class_ids.tolist() == found.class_ids.tolist()
        assert expected.scores.tolist() == found.scores.tolist()
        np.testing.assert_allclose(found.boxes, np.clip(expected.boxes, 0, limit), rtol=1e-4, atol=1e-4)
        assert (expected.truncated, expected.invalid) == (found.truncated, 0)


def check_classes(head: Classification, values: FloatArray, found: Classes) -> None:
    activate: dict[str, Callable[[FloatArray], oracle.Array]] = {
        "softmax": oracle.softmax,
        "sigmoid": oracle.sigmoid,
        "none": lambda plain: plain,
    }
    scores = activate[head.activation](values)[int(head.background) :]
    assert found.class_ids.tolist() == np.argsort(-scores, kind="stable")[: head.top_k].tolist()
    np.testing.assert_allclose(found.scores, np.sort(scores)[::-1][: head.top_k], rtol=1e-5)


def test_nms_agrees_with_opencv_on_real_candidates(seen: tuple[Bundle, list[list[FloatArray]]]) -> None:
    bundle, results = seen
    if isinstance(bundle.manifest.head, Classification | DetectionOutput):
        pytest.skip("this head needs no NMS")
    everything = Thresholds(confidence=0.05, iou=1.0, max_detections=10**6)
    for tensors in results:
        found = oracle.decode(bundle.manifest, tensors, everything, bundle.priors)
        distinct = np.unique(found.scores, return_index=True)[1][::-1]
        boxes, scores = found.boxes[distinct], found.scores[distinct]
        ids = found.class_ids[distinct].astype(np.int32)
        sized = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).astype(np.float64)
        theirs = OPENCV_NMS(sized, scores, ids, 0.0, 0.45)
        assert np.asarray(theirs).ravel().tolist() == nms(boxes, scores, ids, iou=0.45).tolist()
