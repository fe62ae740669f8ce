"""Families of detectors, each by the form of its graph; among them those that used to be taken for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

from qzd_ext import manifest as m
from qzd_ext.errors import ModelError, UsageError
from qzd_ext.head_types import Column
from qzd_tools.convert.facts import Facts, Recognised, known
from qzd_tools.convert.heads.recognise import recognise
from qzd_tools.convert.heads.subject import Subject
from qzd_tools.convert.labels import from_names
from qzd_tools.convert.run import ConvertOptions, convert
from qzd_tools.graph.walk import cut, simplify
from support import detector_graphs
from support import family_graphs as graphs

STANDARD: tuple[Column, ...] = ("x0", "y0", "x1", "y1", "score", "class")
THREE = known("flag", labels=from_names(["a", "b", "c"]))


def see(model: ov.Model, facts: Facts | None = None, side: int = 64) -> Recognised:
    simplify(model)
    found = recognise(Subject(model, side, side, facts or Facts()))
    cut(model, found.outputs)
    return found


PLUS = m.Dfl(strides=(8, 16, 32, 64), offset=0.0, tensors="classes_boxes")
FOUND: list[tuple[str, ov.Model, m.Head, int]] = [
    ("end to end, as many rows as a grid has cells", graphs.end_to_end(63), m.EndToEnd(columns=STANDARD), 0),
    ("end to end, class before score", graphs.end_to_end(columns=("x0", "y0", "x1", "y1", "class", "score")),
     m.EndToEnd(columns=("x0", "y0", "x1", "y1", "class", "score")), 0),
    ("end to end, as Paddle", graphs.end_to_end(columns=("class", "score", "x0", "y0", "x1", "y1")),
     m.EndToEnd(columns=("class", "score", "x0", "y0", "x1", "y1")), 0),
    ("end to end, seven columns", graphs.end_to_end(columns=("-", "x0", "y0", "x1", "y1", "class", "score")),
     m.EndToEnd(columns=("-", "x0", "y0", "x1", "y1", "class", "score")), 0),
    ("end to end, in 0..1", graphs.end_to_end(unit=1 / 64), m.EndToEnd(columns=STANDARD, normalized=True), 0),
    ("end to end, centres in 0..1",
     graphs.end_to_end(unit=1 / 64, columns=("xc", "yc", "w", "h", "score", "class")),
     m.EndToEnd(columns=("xc", "yc", "w", "h", "score", "class"), normalized=True), 0),
    ("boxes, scores and labels apart", graphs.end_to_end(apart=True), m.EndToEnd(columns=STANDARD), 0),
    ("detr of one stage", graphs.detr(two_stage=False), m.Detr(activation="softmax", no_object=True), 4),
    ("detr of two stages", graphs.detr(), m.Detr(), 5),
    ("detr whose classes are four", graphs.detr(classes=4, names=True), m.Detr(), 4),
    ("boxes and logits of queries in one tensor", graphs.joined_queries(), m.Detr(), 5),
    ("corners in rows", graphs.rows_of_boxes(3), m.BoxesScores(), 3),
    ("corners in columns", graphs.rows_of_boxes(3, columns=True),
     m.BoxesScores(boxes_layout="channels_first", scores_layout="channels_first"), 3),
    ("centres in rows", graphs.rows_of_boxes(3, "center"), m.YoloV8(layout="channels_last"), 3),
    ("centres in columns in 0..1", graphs.rows_of_boxes(3, "center", unit=1 / 64, columns=True),
     m.YoloV8(normalized=True), 3),
    ("distances that are expected", graphs.expected_distances(3),
     m.Distances(offset=0.5, tensors="boxes_classes"), 3),
    ("boxes and scores", graphs.boxes_scores(80), m.BoxesScores(), 80),
    ("centres and scores in 0..1", graphs.boxes_scores(5, "center", unit=1 / 64),
     m.BoxesScores(boxes="center", normalized=True), 5),
    ("boxes and scores with a background", graphs.boxes_scores(2, activation="softmax"),
     m.BoxesScores(background=True), 1),
    ("boxes and logits", graphs.boxes_scores(7, activation="none"), m.BoxesScores(activation="sigmoid"), 7),
    ("boxes, and scores in columns", graphs.boxes_scores(7, columns=True),
     m.BoxesScores(scores_layout="channels_first"), 7),
    ("nanodet plus", graphs.nanodet(), PLUS, 4),
    ("nanodet plus of one class", graphs.nanodet(1),
     PLUS, 1),
    ("nanodet", graphs.nanodet(5, 11, (8, 16, 32)), m.Dfl(bins=11, tensors="classes_boxes"), 5),
    ("picodet", graphs.levels([7, 32], (8, 16, 32, 64), activated=[0]), m.Dfl(strides=(8, 16, 32, 64)), 7),
    ("rtmdet", graphs.levels([7, 4], maps=True, pixels=True),
     m.Distances(offset=0.0, unit="pixels", activation="sigmoid"), 7),
    ("scrfd", graphs.levels([1, 4, 10], activated=[0], boxes=2),
     m.Distances(offset=0.0, boxes_per_cell=2), 1),
    ("yunet", graphs.levels([1, 1, 4, 10], activated=[0, 1]), m.Yolox(score="geometric_mean"), 1),
    ("retinaface", graphs.retina_face(), m.Ssd(order="xywh", activation="none"), 1),
]  # fmt: skip


@pytest.mark.parametrize(("model", "head", "classes"), [f[1:] for f in FOUND], ids=[f[0] for f in FOUND])
def test_recognise_names_the_family(model: ov.Model, head: m.Head, classes: int) -> None:
    found = see(model)
    assert (found.head, found.classes) == (head, classes)
    assert found.reason


def test_recognise_names_blazeface_by_its_priors() -> None:
    found = see(graphs.blaze_face(), side=128)
    assert isinstance(found.head, m.Ssd)
    assert (found.head.sizes, found.head.order, found.priors is not None) == ("linear", "xywh", True)


@pytest.mark.parametrize("shape", [(84, 84), (63, 63)])
def test_end_to_end_rows_are_not_taken_for_yolo_v5_whatever_their_number(shape: tuple[int, int]) -> None:
    """84 rows are the cells of 64x64, as 300 at 320x320 are a third of a grid."""
    assert isinstance(see(graphs.end_to_end(shape[0])).head, m.EndToEnd)


def test_rt_detr_is_stretched_whatever_its_metadata_says() -> None:
    found = see(graphs.joined_queries(), known("metadata", resize="letterbox"))
    assert found.certain.resize == "stretch"


@pytest.mark.parametrize(("decode", "resize"), [("v5", "letterbox"), ("darknet", "stretch")])
def test_raw_grids_are_decoded_as_stated(decode: Any, resize: str) -> None:
    anchors = tuple((float(i), float(i + 1)) for i in range(6))
    found = see(detector_graphs.anchor_grids(), known("flag", anchors=anchors, decode=decode))
    assert isinstance(found.head, m.YoloAnchor)
    assert (found.head.decode, found.family.resize) == (decode, resize)


def test_raw_grids_ask_how_they_are_decoded() -> None:
    anchors = tuple((float(i), float(i + 1)) for i in range(6))
    with pytest.raises(UsageError, match="--decode darknet, or --decode v5"):
        see(detector_graphs.anchor_grids(), known("flag", anchors=anchors))


def test_columns_that_do_not_show_are_asked_for() -> None:
    frame = detector_graphs.picture()
    rows = ov.opset13.reshape(frame, [1, 2048, 6], False)
    same = ov.opset13.multiply(ov.opset13.topk(rows, 20, 1, "max", "value").output(0), np.float32(0))
    with pytest.raises(UsageError, match="--columns"):
        see(ov.Model([same], [frame], "empty"))


def test_columns_are_taken_as_stated() -> None:
    columns: tuple[Column, ...] = ("x0", "y0", "x1", "y1", "class", "score")
    found = see(graphs.end_to_end(), known("flag", columns=columns))
    assert found.head == m.EndToEnd(columns=columns)


def test_dfl_is_cut_when_boxes_and_scores_are_joined_at_the_end_only() -> None:
    found = see(detector_graphs.yolo_v8(3, apart=True))
    assert found.head == m.YoloV8Raw(tensors="split")
    assert [tuple(o.shape) for o in found.outputs] == [(1, 64, 84), (1, 3, 84)]


def test_boxes_that_lie_nowhere_are_no_yolo_v8() -> None:
    """A belief about boxes is tried: these do not move with their cells."""
    frame = detector_graphs.picture()
    conv = detector_graphs.convolution(frame, 7, 8)
    rows = ov.opset13.reshape(conv, [1, 7, 64], special_zero=False)
    parts = ov.opset13.variadic_split(rows, 1, [4, 3])
    out = ov.opset13.concat([ov.opset13.tanh(parts.output(0)), ov.opset13.sigmoid(parts.output(1))], 1)
    with pytest.raises(ModelError, match="do not lie where their grid cells are"):
        see(ov.Model([out], [frame], "nowhere"))


def with_masks(task: str) -> ov.Model:
    """[1, 4 + 2 + 32, N] and prototypes, with the metadata that Ultralytics writes."""
    whole = graphs.rows_of_boxes(2, "center", columns=True)
    (frame,) = whole.get_parameters()
    more = [detector_graphs._rows(detector_graphs.convolution(frame, 32, s)) for s in (8, 16, 32)]
    parts = [whole.get_results()[0].input_value(0), ov.opset13.concat(more, 2).output(0)]
    masks = detector_graphs.convolution(frame, 32, 4).output(0)
    model = ov.Model([ov.opset13.concat(parts, 1).output(0), masks], [frame], "masks")
    for key, value in {"task": task, "names": "{0: 'a', 1: 'b'}", "stride": "32"}.items():
        model.set_rt_info(value, ["framework", key])
    return model


@pytest.mark.parametrize(
    ("task", "words"),
    [("segment", "--boxes-only to leave out its masks"), ("pose", "keypoints"), ("obb", "oriented")],
)
def test_convert_refuses_another_task_by_name(tmp_path: Path, task: str, words: str) -> None:
    ov.save_model(with_masks(task), tmp_path / "m.xml")
    with pytest.raises(ModelError) as error:
        convert([tmp_path / "m.xml"], tmp_path / "bundle")
    assert words in str(error.value)


def test_convert_takes_the_boxes_only_when_asked(tmp_path: Path) -> None:
    ov.save_model(with_masks("segment"), tmp_path / "m.xml")
    options = ConvertOptions(boxes_only=True)
    bundle = convert([tmp_path / "m.xml"], tmp_path / "bundle", options)
    assert bundle.manifest.head == m.YoloV8()
    assert bundle.manifest.labels.names == ("a", "b")


def test_convert_crops_the_ir_of_an_ultralytics_classifier_as_its_onnx(tmp_path: Path) -> None:
    model = detector_graphs.classifier(3)
    for key, value in {"model_type": "YOLO", "scale_values": "255", "reverse_input_channels": "YES",
                       "labels": "a b c"}.items():  # fmt: skip
        model.set_rt_info(value, ["model_info", key])
    ov.save_model(model, tmp_path / "m.xml")
    spec = convert([tmp_path / "m.xml"], tmp_path / "bundle").manifest.input
    assert (spec.resize, spec.short_side) == ("crop", 64)


def test_convert_refuses_a_batch_of_four(tmp_path: Path) -> None:
    frame = detector_graphs.picture((4, 3, 64, 64))
    scores = ov.opset13.softmax(ov.opset13.reduce_mean(frame, np.array([2, 3])), 1)
    ov.save_model(ov.Model([scores], [frame], "four"), tmp_path / "m.xml")
    with pytest.raises(ModelError, match="export the model with batch 1"):
        convert([tmp_path / "m.xml"], tmp_path / "bundle", ConvertOptions(labels="a,b,c"))


def test_convert_fixes_a_second_input_that_tells_the_size(tmp_path: Path) -> None:
    whole = graphs.end_to_end()
    sizes = ov.opset13.parameter([1, 2], np.int64, name="orig_target_sizes")
    sizes.output(0).get_tensor().set_names({"orig_target_sizes"})
    width = ov.opset13.gather(ov.opset13.convert(sizes, "f32"), np.array([0]), np.int64(1))
    factor = ov.opset13.divide(width, np.float32(64))
    rows = ov.opset13.multiply(whole.get_results()[0].input_value(0), factor)
    model = ov.Model([rows], [*whole.get_parameters(), sizes], "sized")
    ov.save_model(model, tmp_path / "m.xml")
    options = ConvertOptions(labels="a,b,c", color="rgb", mean=(0.0,), scale=(255.0,), resize="stretch")
    bundle = convert([tmp_path / "m.xml"], tmp_path / "bundle", options)
    assert isinstance(bundle.manifest.head, m.EndToEnd)
