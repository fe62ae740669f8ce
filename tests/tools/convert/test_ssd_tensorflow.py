"""The TensorFlow Object Detection API: its NMS is cut off, and the boxes stay the same."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import msgspec
import numpy as np
import openvino as ov
import pytest

from oracle import overlap
from qzd_ext.bundle import Bundle
from qzd_ext.detector import Detector
from qzd_ext.geometry import prepare
from qzd_ext.manifest import Ssd
from qzd_ext.runner import RunOptions
from qzd_tools.convert.facts import Recognised
from qzd_tools.convert.heads.ssd_tensorflow import input_size, raw_heads
from qzd_tools.convert.inputs import make_static
from qzd_tools.convert.run import ConvertOptions, convert
from qzd_tools.graph.walk import cut, simplify
from support import tensorflow_graphs
from support.results import as_detections, instance_of
from support.tiny_model import decode

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
FROZEN = "mobilenet_ssd_256res_0.125_person_cat_dog.pb"


def simplified(model: ov.Model) -> ov.Model:
    make_static(model, None, input_size(model))
    simplify(model)
    return model


def test_input_size_is_that_of_the_loop_that_resizes() -> None:
    assert input_size(tensorflow_graphs.detector()) == (tensorflow_graphs.SIDE, tensorflow_graphs.SIDE)


@pytest.mark.parametrize("flat", [False, True], ids=["boxes for all classes", "flat boxes"])
@pytest.mark.parametrize("form", ["rows", "squeezed", "added"])
def test_raw_heads_finds_priors_and_scales_by_trying_the_coder(
    form: tensorflow_graphs.Form, flat: bool
) -> None:
    graph = tensorflow_graphs.detector(form=form, flat=flat)
    found = instance_of(Recognised, raw_heads(simplified(graph)))
    assert [list(output.shape) for output in found.outputs] == [
        [1, len(tensorflow_graphs.priors()), channels] for channels in (4, tensorflow_graphs.CLASSES + 1)
    ]
    head = instance_of(Ssd, found.head)
    assert head.scales == (10.0, 10.0, 5.0, 5.0)
    assert (head.activation, head.background, found.classes) == (
        "sigmoid",
        True,
        tensorflow_graphs.CLASSES,
    )
    assert found.family.iou == 0.6
    assert found.priors is not None
    np.testing.assert_allclose(found.priors, tensorflow_graphs.priors(), atol=1e-6)


def test_raw_heads_leaves_no_loop_and_gives_the_same_numbers() -> None:
    whole = tensorflow_graphs.detector()
    model = simplified(whole.clone())
    found = instance_of(Recognised, raw_heads(model))
    raw = cut(model, found.outputs)
    assert not [n for n in raw.get_ops() if n.get_type_name() == "Loop"]
    frame = np.random.default_rng(0).integers(
        0, 256, (1, tensorflow_graphs.SIDE, tensorflow_graphs.SIDE, 3), np.uint8
    )
    rows = ov.Core().compile_model(whole, "CPU", EXACT)(frame)[0]
    scores = 1 / (1 + np.exp(-ov.Core().compile_model(raw, "CPU", EXACT)(frame)[1][0, :, 1:]))
    kept = rows[rows[:, 0] == 0]
    assert len(kept) > 0
    assert all(scores[int(box), int(label)] > 0.1 for _, label, box in kept)


def test_raw_heads_refuses_a_coder_that_it_does_not_know() -> None:
    assert "another coder" in instance_of(str, raw_heads(simplified(tensorflow_graphs.detector(power=2.0))))


def test_raw_heads_refuses_a_graph_without_its_own_nms() -> None:
    frame = ov.opset13.parameter([1, 3, 4, 4], np.float32)
    model = ov.Model([ov.opset13.relu(frame)], [frame], "plain")
    assert "no Loop" in instance_of(str, raw_heads(model))


@pytest.fixture(scope="module")
def frozen(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    options = ConvertOptions(labels="person,cat,dog")
    return convert([data / "models" / FROZEN], tmp_path_factory.mktemp("frozen") / "bundle", options)


@pytest.mark.data
def test_the_cut_graph_gives_the_boxes_of_the_uncut_one(data: Path, frozen: Bundle) -> None:
    uncut = ov.Core().compile_model(data / "models" / FROZEN, "CPU", EXACT)
    thresholds = msgspec.structs.replace(frozen.manifest.thresholds, confidence=0.3, multi_label=True)
    compared = 0
    with Detector(frozen, RunOptions(), thresholds) as detector:
        for file in sorted((data / "coco" / "validation" / "images").iterdir())[::8]:
            frame = decode(file.read_bytes())
            laid = np.empty((256, 256, 3), np.uint8)
            prepare(frame, frozen.manifest.input, laid)
            boxes, classes, scores = (uncut(laid[None, :, :, ::-1].copy())[i][0] for i in range(3))
            sure = scores >= 0.3
            height, width = frame.shape[:2]
            wanted = boxes[sure][:, [1, 0, 3, 2]] * [width, height, width, height]
            found = as_detections(detector.detect(frame).found)
            assert len(found) == sure.sum()
            for box, label, score in zip(wanted, classes[sure], scores[sure], strict=True):
                same = (found.class_ids == label - 1) & (abs(found.scores - score) <= 0.01)
                assert (overlap(box, found.boxes[same]) >= 0.99).any()
            compared += len(wanted)
    assert compared > 15


@pytest.mark.data
@pytest.mark.system
def test_the_cut_graph_is_faster_than_the_uncut_one(data: Path, frozen: Bundle) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), np.uint8)
    models = (ov.Core().compile_model(path, "CPU") for path in (data / "models" / FROZEN, frozen.model))
    requests = [model.create_infer_request() for model in models]
    taken: list[list[float]] = [[], []]
    for _ in range(60):
        for request, times in zip(requests, taken, strict=True):
            begin = time.perf_counter()
            request.infer([frame])
            times.append(time.perf_counter() - begin)
    uncut, cut_off = (statistics.median(times) for times in taken)
    assert uncut / cut_off >= 1.4
