"""Heads recognised by structure, by metadata and by flags."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import openvino as ov
import pytest

from qzd_ext.errors import ModelError, UsageError
from qzd_ext.manifest import (
    Classification,
    DetectionOutput,
    YoloAnchor,
    YoloV5,
    YoloV8,
    YoloV8Raw,
    Yolox,
)
from qzd_tools.convert.facts import Facts, Recognised, known
from qzd_tools.convert.heads.recognise import recognise
from qzd_tools.convert.heads.subject import Subject
from qzd_tools.convert.run import ConvertOptions, convert
from qzd_tools.graph.walk import cut, simplify
from support import detector_graphs
from support.results import instance_of

REGION = tuple((float(i), float(i + 1)) for i in range(1, 13, 2))
ANCHORS = tuple((float(i), float(i + 1)) for i in range(6))


def see(model: ov.Model, facts: Facts | None = None, asked: str | None = None) -> Recognised:
    simplify(model)
    return recognise(Subject(model, detector_graphs.SIDE, detector_graphs.SIDE, facts or Facts(), asked))


@pytest.mark.parametrize(
    ("model", "head", "classes"),
    [
        (detector_graphs.yolox(80), Yolox(strides=(8, 16, 32)), 80),
        (detector_graphs.yolox(1), Yolox(strides=(8, 16, 32)), 1),
        (detector_graphs.yolo_v8(80), YoloV8Raw(strides=(8, 16, 32), bins=16), 80),
        (detector_graphs.yolo_v8(3, bins=8), YoloV8Raw(strides=(8, 16, 32), bins=8), 3),
        (detector_graphs.yolo_v8(1), YoloV8Raw(strides=(8, 16, 32), bins=16), 1),
        (detector_graphs.yolo_v8(3, last=True), YoloV8Raw(strides=(8, 16, 32), bins=16), 3),
        (detector_graphs.yolo_v8(80, dfl=False), YoloV8(), 80),
        (detector_graphs.yolo_v8(2, dfl=False, last=True), YoloV8(layout="channels_last"), 2),
        (detector_graphs.yolo_v8(1, dfl=False, unit=1 / detector_graphs.SIDE), YoloV8(normalized=True), 1),
        (detector_graphs.yolo_v5(2, unit=1 / detector_graphs.SIDE), YoloV5(normalized=True), 2),
        (detector_graphs.yolo_v5(80), YoloV5(), 80),
        (detector_graphs.yolo_v5(2, anchors=1), YoloV5(), 2),
        (detector_graphs.detection_output(91, 0), DetectionOutput(first_label=1), 90),
        (detector_graphs.detection_output(2, 1), DetectionOutput(first_label=0), 1),
        (detector_graphs.detection_output(3, -1), DetectionOutput(first_label=0), 3),
        (detector_graphs.detection_output(3, 0, decrease_label_id=True), DetectionOutput(first_label=0), 2),
        (
            detector_graphs.anchor_grids(region=True),
            YoloAnchor(anchors=REGION, masks=((0, 1, 2), (3, 4, 5))),
            2,
        ),
        (detector_graphs.classifier(10), Classification(activation="none"), 10),
        (detector_graphs.classifier(10, softmax=False), Classification(activation="softmax"), 10),
        (detector_graphs.classifier(10, spatial=True), Classification(activation="none"), 10),
        (detector_graphs.classifier(1001), Classification(activation="none", background=True), 1000),
    ],
    ids=[
        "yolox", "yolox of one class", "v8", "v8 with 8 bins", "v8 of one class", "v8 transposed",
        "v8 without dfl", "v8 transposed without dfl", "v8 in 0..1", "v5 in 0..1", "v5",
        "yolox decoded in the graph", "ssd with background first", "ssd with background last",
        "ssd without background", "ssd that takes the background off its labels", "region", "classifier",
        "logits", "1x1 maps", "imagenet and background",
    ],
)  # fmt: skip
def test_recognise_names_the_head_when_its_structure_is_there(
    model: ov.Model,
    head: Classification | DetectionOutput | YoloAnchor | YoloV5 | YoloV8 | YoloV8Raw | Yolox,
    classes: int,
) -> None:
    found = see(model)
    assert (head, classes) == (found.head, found.classes)
    assert found.reason


def test_recognise_takes_the_logits_of_classes_that_may_go_together_through_a_sigmoid() -> None:
    found = see(detector_graphs.classifier(10, softmax=False), known("info", multilabel=True))
    assert Classification(activation="sigmoid") == found.head


def test_recognise_passes_over_the_best_class_beside_the_scores() -> None:
    found = see(detector_graphs.classifier(10, best=True))
    assert (Classification(activation="none"), 10) == (found.head, found.classes)
    assert found.outputs[0].get_element_type().is_real()


@pytest.mark.parametrize(
    ("classes", "stated", "reason"),
    [(1001, None, "ImageNet's and one more"), (1001, True, "as asked for"), (10, True, "as asked for")],
)
def test_recognise_says_why_a_class_is_background(classes: int, stated: bool | None, reason: str) -> None:
    found = see(detector_graphs.classifier(classes), known("flag", background=stated))
    assert found.classes == classes - 1
    assert found.reason.endswith(f"of which 0 is background, {reason}" if stated else reason)


def test_the_family_of_one_decoded_box_a_cell_is_yolox_only_with_its_exponential() -> None:
    """YOLOv6 ends alike, and is fed with RGB in 0..1."""
    model = detector_graphs.yolo_v5(2, anchors=1)
    assert see(model).family == Facts()
    output = model.get_results()[0].input_value(0)
    model = ov.Model([ov.opset13.exp(output)], model.get_parameters(), "yolox decoded")
    assert see(model).family.color == "bgr"


@pytest.mark.parametrize("nhwc", [False, True], ids=["nchw", "nhwc"])
def test_recognise_takes_anchors_from_flags_when_grids_are_bare(nhwc: bool) -> None:
    found = see(detector_graphs.anchor_grids(nhwc=nhwc), known("flag", anchors=ANCHORS, decode="darknet"))
    layout: Literal["nhwc", "nchw"] = "nhwc" if nhwc else "nchw"
    assert YoloAnchor(anchors=ANCHORS, masks=((0, 1, 2), (3, 4, 5)), layout=layout) == found.head
    assert found.classes == 2


def test_recognise_asks_for_anchors_when_grids_are_bare() -> None:
    with pytest.raises(UsageError, match="--anchors"):
        see(detector_graphs.anchor_grids())


@pytest.mark.parametrize(
    "stated", [{"anchors": ANCHORS, "masks": ((0, 1), (2, 3))}, {"anchors": (*ANCHORS, (7.0, 8.0))}]
)
def test_recognise_refuses_anchors_that_do_not_fit(
    stated: dict[str, tuple[tuple[float, float], ...]],
) -> None:
    with pytest.raises(UsageError, match="21 channels"):
        see(detector_graphs.anchor_grids(), known("flag", decode="darknet", **stated))


def test_recognise_lists_what_was_seen_when_no_head_fits() -> None:
    with pytest.raises(ModelError) as caught:
        see(detector_graphs.unknown())
    text = str(caught.value)
    assert "[1,3,64,64]" in text
    assert "Tanh" in text
    assert all(f"{kind}: " in text for kind in ("yolox", "ssd", "detection_output", "classification"))


def test_recognise_follows_the_flag_when_a_head_is_asked_for() -> None:
    assert YoloV8() == see(detector_graphs.yolo_v8(), asked="yolo_v8").head


def test_recognise_trusts_structure_before_metadata_and_metadata_before_nothing() -> None:
    assert isinstance(see(detector_graphs.yolo_v8(3), known("info", head="yolo_v8")).head, YoloV8Raw)
    assert isinstance(see(detector_graphs.yolo_v8(3), known("info", head="classification")).head, YoloV8Raw)
    odd = detector_graphs.rows(5, 30)  # no grid of the picture, and no Sigmoid
    with pytest.raises(ModelError):
        see(odd)
    assert isinstance(see(odd, known("info", head="yolo_v8")).head, YoloV8)


def test_recognise_says_why_not_when_the_head_asked_for_does_not_fit() -> None:
    with pytest.raises(ModelError, match=r"yolox: .*rows"):
        see(detector_graphs.yolo_v8(3), asked="yolox")


def test_recognise_refuses_a_head_when_it_does_not_exist() -> None:
    with pytest.raises(UsageError, match="no head yolo_v99"):
        see(detector_graphs.yolo_v8(), asked="yolo_v99")


def test_the_raw_cut_of_yolo_v8_gives_the_boxes_of_the_whole_graph() -> None:
    model = detector_graphs.yolo_v8(3)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    frame = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    boxes = ov.Core().compile_model(model, "CPU", exact)(frame)[0][0]
    found = see(model)
    raw = ov.Core().compile_model(cut(model, found.outputs), "CPU", exact)(frame)[0][0]
    logits, sides = raw[64:], raw[:64].reshape(4, 16, -1)
    share = np.exp(sides) / np.exp(sides).sum(1, keepdims=True)
    reach = (share * np.arange(16).reshape(1, 16, 1)).sum(1)
    cells, stride = detector_graphs._cells()
    first, second = cells[0] - reach[:2], cells[0] + reach[2:]
    expected = np.concatenate([(first + second) / 2, second - first]) * stride[0]
    np.testing.assert_allclose(boxes[:4], expected, atol=1e-3)
    np.testing.assert_allclose(boxes[4:], 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_region_operations_take_the_scale_that_they_do_not_say() -> None:
    found = see(detector_graphs.anchor_grids(region=True), known("asked", scale_xy=(1.05, 1.1)))
    assert found.head == YoloAnchor(anchors=REGION, masks=((0, 1, 2), (3, 4, 5)), scale_xy=(1.05, 1.1))


def test_region_operations_may_each_have_anchors_of_their_own() -> None:
    frame = detector_graphs.picture()
    regions = [
        ov.opset1.region_yolo(
            detector_graphs.convolution(frame, 21, 8), 4, 2, 3, False, [0, 1, 2], 1, 3, anchors
        )
        for anchors in ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [7.0, 8.0, 9.0, 10.0, 11.0, 12.0])
    ]
    head = instance_of(YoloAnchor, see(ov.Model(regions, [frame], "own")).head)
    assert head.anchors == ((1.0, 2.0), (3.0, 4.0), (5.0, 6.0), (7.0, 8.0), (9.0, 10.0), (11.0, 12.0))
    assert head.masks == ((0, 1, 2), (3, 4, 5))


@pytest.mark.parametrize(
    ("masks", "words"),
    [(None, "0,1,2/3,4,5 (the smallest on"), (((1, 2, 3), (3, 4, 5)), "1,2,3/3,4,5 (as asked")],
)
def test_bare_grids_say_which_anchors_they_have(
    masks: tuple[tuple[int, ...], ...] | None, words: str
) -> None:
    facts = known("asked", anchors=ANCHORS, masks=masks, decode="darknet")
    assert words in see(detector_graphs.anchor_grids(), facts).reason


def test_convert_refuses_a_graph_whose_results_are_not_its_heads(tmp_path: Path) -> None:
    """Without golden frames too: the region says two classes, and its grid has channels for three."""
    frame = detector_graphs.picture()
    grid = detector_graphs.convolution(frame, 3 * (5 + 3), 8)
    region = ov.opset1.region_yolo(grid, 4, 2, 3, False, [0, 1, 2], 1, 3, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    ov.save_model(ov.Model([region], [frame], "odd"), tmp_path / "m.xml")
    with pytest.raises(ModelError, match=r"the model's results are \(1, 24, 8, 8\)"):
        convert([tmp_path / "m.xml"], tmp_path / "bundle", ConvertOptions(labels="a,b"))
    assert not (tmp_path / "bundle").exists()
