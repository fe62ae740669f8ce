"""A model with real weights that finds painted cells, and datasets of such pictures.

A strided convolution over each 8x8 cell and a 1x1 convolution make a score for blue, green and red, then a
sigmoid; boxes are those of the cells. Its head is `yolo_v8`. As a classifier the scores are averaged over
the picture. So quantization has layers to work on, and a test knows what must be found.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import openvino as ov
from openvino import opset13 as ops

from qzd_ext.bundle import MODEL, create
from qzd_ext.geometry import Frame
from qzd_ext.manifest import Classification, Input, Labels, Manifest, Thresholds, YoloV8
from support.tiny_model import CELL, COLOURS, SIDE, paint

__all__ = ["build_painted", "write_painted_bundle", "write_painted_classes", "write_painted_dataset"]

COUNT = (SIDE // CELL) ** 2
HIDDEN = 48


def build_painted(*, classifier: bool = False, seed: int = 0) -> ov.Model:
    """u8 `[1, 64, 64, 3]` to `[1, 4 + 3, 64]`, or as a classifier to `[1, 3]`."""
    rng = np.random.default_rng(seed)
    frame = ops.parameter([1, SIDE, SIDE, 3], ov.Type.u8, name="frame")
    planes = ops.transpose(ops.convert(frame, ov.Type.f32), np.array([0, 3, 1, 2]))
    planes = ops.divide(planes, np.float32(255))
    # each hidden channel averages one colour over a cell, with a little noise
    cells = np.zeros((HIDDEN, 3, CELL, CELL), np.float32)
    cells[np.arange(HIDDEN), np.arange(HIDDEN) % 3] = 1 / CELL**2
    cells += rng.normal(0, 1e-4, cells.shape).astype(np.float32)
    hidden = ops.relu(_convolution(planes, cells, CELL, "cells"))
    depth = (1 + rng.normal(0, 0.01, (HIDDEN, 1, 1, 1, 1))).astype(np.float32)
    depthwise = ops.group_convolution(hidden, depth, [1, 1], [0, 0], [0, 0], [1, 1])
    hidden = ops.relu(_named(depthwise, "depthwise"))
    mix = np.zeros((3, HIDDEN, 1, 1), np.float32)
    mix[np.arange(HIDDEN) % 3, np.arange(HIDDEN)] = 30 * 3 / HIDDEN
    logits = ops.add(_convolution(hidden, mix, 1, "mix"), np.full((1, 3, 1, 1), -15, np.float32))
    if classifier:
        mean = ops.reduce_mean(logits, np.array([2, 3]), keep_dims=False)
        return ov.Model([mean], [frame], "painted")
    scores = ops.reshape(ops.sigmoid(logits), np.array([1, 3, COUNT]), special_zero=False)
    rows, columns = np.divmod(np.arange(COUNT), SIDE // CELL)
    middle = np.stack([columns, rows]) * CELL + CELL / 2
    boxes = np.concatenate([middle, np.full((2, COUNT), CELL)]).astype(np.float32)[None]
    return ov.Model([ops.concat([ops.constant(boxes), scores], 1)], [frame], "painted")


def _convolution(source: ov.Node, weights: np.ndarray, stride: int, name: str) -> ov.Node:
    return _named(ops.convolution(source, weights, [stride] * 2, [0, 0], [0, 0], [1, 1]), name)


def _named(node: ov.Node, name: str) -> ov.Node:
    node.set_friendly_name(name)
    return node


def write_painted_bundle(
    directory: Path, *, classifier: bool = False, labels: tuple[str, ...] = COLOURS
) -> Path:
    """Write a float bundle of the model, without golden frames."""
    with create(directory) as draft:
        model = build_painted(classifier=classifier)
        ov.save_model(model, draft.directory / MODEL, compress_to_fp16=False)
        draft.manifest = Manifest(
            name="painted",
            task="classification" if classifier else "detection",
            precision="fp32",
            input=Input(width=SIDE, height=SIDE, resize="stretch"),
            head=Classification(top_k=3) if classifier else YoloV8(),
            labels=Labels(names=labels),
            thresholds=Thresholds(confidence=0.5),
        )
    return directory


def random_cells(seed: int, count: int = 6) -> list[tuple[int, int, str]]:
    """Columns, rows and colours of some different cells."""
    rng = np.random.default_rng(seed)
    places = rng.choice(COUNT, count, replace=False)
    return [(int(i) % 8, int(i) // 8, COLOURS[int(rng.integers(3))]) for i in places]


def noisy(cells: list[tuple[int, int, str]], seed: int) -> Frame:
    """Return the painted frame with some noise, so that no two pictures are alike."""
    noise = np.random.default_rng(seed).integers(0, 40, (SIDE, SIDE, 3)).astype(np.uint8)
    return np.asarray(cv2.add(paint(*cells), noise), np.uint8)


def write_painted_dataset(folder: Path, images: int, *, seed: int = 0) -> Path:
    """Write pictures and their COCO annotations; the path of the annotation file."""
    (folder / "images").mkdir(parents=True)
    entries: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index in range(1, images + 1):
        cells = random_cells(seed * 1000 + index)
        name = f"{index:03d}.png"
        assert cv2.imwrite(str(folder / "images" / name), noisy(cells, seed * 1000 + index))
        entries.append({"id": index, "file_name": name, "width": SIDE, "height": SIDE})
        for column, row, colour in cells:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": COLOURS.index(colour) + 1,
                    "bbox": [column * CELL, row * CELL, CELL, CELL],
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(COLOURS, 1)]
    file = folder / "instances.json"
    file.write_text(json.dumps({"images": entries, "annotations": annotations, "categories": categories}))
    return file


def write_painted_classes(folder: Path, images: int) -> Path:
    """Write pictures of mostly one colour and the list of their classes; the path of the list."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for index in range(images):
        colour = index % 3
        cells = [(column, row, COLOURS[colour]) for column, row, _ in random_cells(index, 30)]
        assert cv2.imwrite(str(folder / "images" / f"{index}.png"), noisy(cells, index))
        lines.append(f"{index}.png {colour}\n")
    (folder / "labels.txt").write_text("".join(lines))
    return folder / "labels.txt"
