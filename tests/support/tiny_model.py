"""A real model that compiles in milliseconds: each 8x8 cell of a 64x64 frame is a box of its colour.

Its head is `yolo_v8`, its classes are blue, green and red, and a cell's score is the mean of that channel.
So a test paints what it wants to be found. With a `fault`, a red cell in the top left corner (POISON) makes
the device fail, or keeps it busy for seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import openvino as ov
from openvino import opset13 as ops

from qzd_ext.bundle import MODEL, create
from qzd_ext.detections import Detections
from qzd_ext.geometry import Frame
from qzd_ext.golden import GoldenFrame, write_golden
from qzd_ext.manifest import Input, Labels, Manifest, Thresholds, YoloV8

__all__ = [
    "CELL",
    "COLOURS",
    "POISON",
    "SIDE",
    "Fault",
    "build_model",
    "decode",
    "encode",
    "paint",
    "write_tiny_bundle",
]

SIDE = 64
CELL = 8
COLOURS = ("blue", "green", "red")
POISON = (0, 0, "red")
ROUNDS = {"slow": 600, "stuck": 4800}  # a unit of red: two seconds where nothing else runs, and sixteen

Fault = Literal["none", "fail", "nan", "slow", "stuck"]


def paint(*cells: tuple[int, int, str], side: int = SIDE) -> Frame:
    """Paint a black frame with cells of a colour; a cell is its column and row."""
    frame = np.zeros((side, side, 3), np.uint8)
    for column, row, colour in cells:
        frame[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL, COLOURS.index(colour)] = 255
    return frame


def encode(frame: Frame, suffix: str = "png") -> bytes:
    """Encode a frame as an image file."""
    return cv2.imencode(f".{suffix}", frame)[1].tobytes()


def decode(image: bytes) -> Frame:
    """Decode an image file to a frame."""
    return np.asarray(cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def build_model(fault: Fault = "none") -> ov.Model:
    """u8 `[1, 64, 64, 3]` to `[1, 4 + 3, 64]`."""
    frame = ops.parameter([1, SIDE, SIDE, 3], ov.Type.u8, name="frame")
    planes = ops.transpose(ops.convert(frame, ov.Type.f32), np.array([0, 3, 1, 2]))
    means = ops.avg_pool(planes, [CELL, CELL], [0, 0], [0, 0], [CELL, CELL], exclude_pad=False)
    count = (SIDE // CELL) ** 2
    scores = ops.reshape(
        ops.divide(means, np.float32(255)), np.array([1, len(COLOURS), count]), special_zero=False
    )
    rows, columns = np.divmod(np.arange(count), SIDE // CELL)
    middle = np.stack([columns, rows]) * CELL + CELL / 2
    boxes = np.concatenate([middle, np.full((2, count), CELL)]).astype(np.float32)[None]
    scores = ops.add(scores, _fault(fault, frame, means, count))
    return ov.Model([ops.concat([ops.constant(boxes), scores], 1)], [frame], "tiny")


def _fault(fault: Fault, frame: ov.Node, means: ov.Node, count: int) -> ov.Node:
    """Zero, computed in a way that fails or takes long when the top left pixel is red."""
    pixel = ops.slice(frame, [0, 0, 0, 2], [1, 1, 1, 3], [1, 1, 1, 1])
    poison = ops.reshape(ops.convert(pixel, "i64"), np.array([1]), special_zero=False)
    if fault == "fail":  # a shape that does not fit
        shape = ops.concat([ops.constant(np.array([len(COLOURS)])), ops.add(poison, np.array([count]))], 0)
        total = ops.reduce_sum(ops.reshape(means, shape, special_zero=False), np.array([0, 1]))
    elif fault == "nan":  # 0 / 0 - 1 at full red
        rest = ops.subtract(np.float32(255), ops.convert(pixel, ov.Type.f32))
        return ops.reshape(ops.subtract(ops.divide(rest, rest), np.float32(1)), np.array([1]), False)
    elif fault in ROUNDS:
        total = ops.reduce_sum(_busy(ops.multiply(poison, np.array([ROUNDS[fault]]))), np.array([0]))
    else:
        return ops.constant(np.float32(0))
    return ops.minimum(ops.abs(total), np.float32(0))


def _busy(rounds: ov.Node) -> ov.Node:
    """Loop for a number of rounds over a vector that stays zero."""
    vector = ops.parameter([4096], ov.Type.f32)
    body = ov.Model([ops.constant(True), ops.sin(vector)], [vector], "body")
    loop = ops.loop(ops.squeeze(rounds, np.array([0])), ops.constant(True))
    loop.set_function(body)
    loop.set_special_body_ports([-1, 0])
    loop.set_merged_input(
        vector, ops.constant(np.zeros(4096, np.float32)).output(0), body.results[1].output(0)
    )
    return loop.get_iter_value(body.results[1].output(0), -1)


def write_tiny_bundle(
    directory: Path, *, golden_label: str = "red", version: str = "1", fault: Fault = "none"
) -> Path:
    """Write a bundle of it with one golden frame, a red cell; another golden label makes it fail its test."""
    with create(directory) as draft:
        ov.save_model(build_model(fault), draft.directory / MODEL, compress_to_fp16=False)
        found = Detections(
            np.array([[8, 16, 16, 24]], np.float32),
            np.ones(1, np.float32),
            np.array([COLOURS.index(golden_label)], np.int32),
        )
        write_golden(draft.directory, 0, GoldenFrame(paint((1, 2, "red")), found))
        draft.manifest = Manifest(
            name="tiny",
            version=version,
            task="detection",
            precision="fp32",
            input=Input(width=SIDE, height=SIDE, resize="stretch"),
            head=YoloV8(),
            labels=Labels(names=COLOURS),
            thresholds=Thresholds(confidence=0.5),
        )
    return directory
