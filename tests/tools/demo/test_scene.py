"""The demo's pictures: the same for a seed, and true to their boxes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import onnx
import pytest
from pycocotools.coco import COCO

from qzd_tools import demo
from qzd_tools.demo import dataset, scene
from qzd_tools.demo.parts import LABELS, Part, area, draw, new_part, outline

HERE = Path(next(iter(demo.__path__)))


def test_a_picture_is_the_same_for_the_same_seed() -> None:
    first, second = scene.still(5, 3), scene.still(5, 3)
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.boxes, second.boxes)


@pytest.mark.parametrize("other", [(6, 3), (5, 4), (3, 5)])
def test_a_picture_differs_for_another_seed_or_number(other: tuple[int, int]) -> None:
    assert not np.array_equal(scene.still(5, 3).pixels[:240, :320], scene.still(*other).pixels[:240, :320])


def test_no_seed_of_the_demo_serves_twice() -> None:
    seeds = [dataset.TRAIN_SEED, dataset.CALIBRATION_SEED, dataset.VALIDATION_SEED, dataset.CLIP_SEED]
    assert len(seeds) == len(set(seeds))


def test_stills_have_the_types_and_shapes_they_promise() -> None:
    for number in range(20):
        frame = scene.still(8, number)
        count = len(frame.classes)
        assert frame.pixels.dtype == np.uint8
        assert frame.pixels.shape[2:] == (3,)
        assert frame.boxes.dtype == np.float32
        assert frame.boxes.shape == (count, 4)
        assert frame.classes.dtype == np.int64
        assert frame.areas.dtype == np.float32
        assert frame.areas.shape == (count,)


def test_boxes_lie_inside_the_frame_and_hold_their_area() -> None:
    for number in range(40):
        frame = scene.still(9, number)
        height, width = frame.pixels.shape[:2]
        sides = frame.boxes[:, 2:] - frame.boxes[:, :2]
        assert np.all(frame.boxes >= 0)
        assert np.all(frame.boxes <= (width, height, width, height))
        assert np.all(sides > 2)
        assert np.all(frame.areas <= sides.prod(axis=1))


def test_every_class_is_drawn() -> None:
    seen = np.concatenate([scene.still(10, number).classes for number in range(30)])
    assert set(range(len(LABELS))) == set(seen.tolist())


@pytest.mark.parametrize("kind", range(len(LABELS)), ids=LABELS)
def test_a_box_is_tight_to_the_pixels_painted(kind: int) -> None:
    part = replace(_part(kind), x=80.0, y=70.0)
    canvas = np.zeros((640, 640, 3), np.uint8)
    draw(canvas, part, 4, 0.5)
    rows, columns = np.nonzero(canvas.max(axis=2) > 12)
    painted = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 4
    boxes, classes, areas = scene._truth([part], 160, 160)
    assert np.abs(boxes[0] - painted).max() <= 0.75
    assert classes.tolist() == [kind]
    assert areas[0] == pytest.approx(area(outline(part)), rel=0.04)


def test_a_part_is_cut_at_the_frame_when_it_hangs_out() -> None:
    part = replace(_part(2), x=160.0 - 4, y=70.0)
    boxes, _, areas = scene._truth([part], 160, 160)
    assert boxes[0, 2] == 160
    assert areas[0] < area(outline(part))


def test_a_part_is_left_out_when_it_is_hidden_or_mostly_outside() -> None:
    below, outside = replace(_part(2), x=80.0, y=70.0), replace(_part(1), x=-15.0, y=70.0)
    above = replace(_part(3), x=80.0, y=70.0, radius=40.0, hole=0.0)
    _, classes, _ = scene._truth([replace(below, radius=20.0), outside, above], 160, 160)
    assert classes.tolist() == [3]


def test_an_empty_belt_gives_empty_arrays_of_the_right_shape() -> None:
    boxes, classes, areas = scene._truth([], 120, 160)
    assert (boxes.shape, classes.shape, areas.shape) == ((0, 4), (0,), (0,))


def test_the_belt_moves_parts_and_texture_alike() -> None:
    first, *_, last = scene.moving(4, 11)
    height, width = first.pixels.shape[:2]
    inside = (first.boxes[:, 0] > 40) & (first.boxes[:, 2] < width - 1) & (first.boxes[:, 1] > 0)
    whole = first.boxes[inside & (first.boxes[:, 3] < height)]
    moved = whole - np.array([30, 0, 30, 0], np.float32)
    assert len(whole)
    for box in moved:
        assert np.abs(last.boxes - box).max(axis=1).min() <= 0.5
    before, after = (cv2.cvtColor(frame.pixels, cv2.COLOR_BGR2GRAY).astype(float) for frame in (first, last))
    assert np.abs(before[:, 30:] - after[:, :-30]).mean() < np.abs(before - after).mean()


def test_a_data_set_is_coco_that_pycocotools_reads(tmp_path: Path) -> None:
    path = dataset.write_dataset(tmp_path / "made" / "here", 6, seed=11)
    coco = COCO(str(path))
    assert [coco.cats[number]["name"] for number in (1, 2, 3, 4)] == list(LABELS)
    assert len(coco.imgs) == 6
    for info in coco.imgs.values():
        pixels = cv2.imread(str(path.parent / "images" / info["file_name"]))
        assert pixels is not None
        assert pixels.shape == (info["height"], info["width"], 3)
    truth = scene.still(11, 2)
    stored = coco.loadAnns(coco.getAnnIds(imgIds=[3]))
    assert (truth.classes + 1).tolist() == [one["category_id"] for one in stored]
    widths = truth.boxes[:, 2] - truth.boxes[:, 0]
    assert [one["bbox"][2] for one in stored] == pytest.approx(widths.tolist())
    assert {one["iscrowd"] for one in coco.anns.values()} == {0}


def test_a_data_set_is_the_same_when_written_again(tmp_path: Path) -> None:
    names = "a", os.fsdecode(b"caf\xe9")  # names of files are any bytes
    first, second = (dataset.write_dataset(tmp_path / name, 2, seed=12) for name in names)
    assert json.loads(first.read_text()) == json.loads(second.read_text())
    name = "images/000001.jpg"
    assert (first.parent / name).read_bytes() == (second.parent / name).read_bytes()


def test_a_clip_decodes_to_the_frames_asked_for(tmp_path: Path) -> None:
    path = dataset.write_clip(tmp_path / "made" / "belt.mp4", 17, seed=13)
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(240, 320, 3)] * 17
    truth = [frame.pixels for frame in scene.moving(13, 17)]
    assert np.abs(frames[8].astype(float) - truth[8]).mean() < 8


def test_the_model_is_small_and_has_the_layout_it_promises() -> None:
    path = HERE / "parts.onnx"
    assert path.stat().st_size <= 2_000_000
    graph = onnx.load(str(path)).graph
    ends = [one.type.tensor_type.shape.dim for one in (*graph.input, *graph.output)]
    shapes = [[side.dim_value for side in end] for end in ends]
    assert shapes == [[1, 3, 256, 256], [1, 4 + len(LABELS), 1024]]


def _part(kind: int) -> Part:
    parts = (new_part(np.random.default_rng(seed), 0, 0, 1, 0.0) for seed in range(1000))
    return next(part for part in parts if part.kind == kind)
