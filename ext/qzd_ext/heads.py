"""Each head's check of the model's outputs, and its kernel with everything about the model bound to it.

One function per head, from `ModelOutputs` to `Scan`. The maths is in `_yolo` and `_ssd`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qzd_ext._nms import Candidates
from qzd_ext._ssd import scan_boxes, scan_ssd
from qzd_ext._yolo import scan_anchor, scan_v5, scan_v8_columns, scan_v8_raw, scan_v8_rows, scan_x
from qzd_ext.detections import FloatArray
from qzd_ext.errors import ModelError
from qzd_ext.manifest import (
    DetectionOutput,
    EndToEnd,
    Head,
    Manifest,
    Ssd,
    Thresholds,
    YoloAnchor,
    YoloV5,
    YoloV8,
    YoloV8Raw,
    Yolox,
)

__all__ = ["ModelOutputs", "Scan", "Tensors", "parts_of", "scan_for"]

Tensors = Sequence[FloatArray]
Scan = Callable[[Tensors, Candidates, Thresholds], None]
"""Puts what one frame's tensors hold, and passes the confidence threshold, into the candidates."""


@dataclass(frozen=True, slots=True)
class ModelOutputs:
    """The results that a model announces, to be checked against its manifest."""

    manifest: Manifest
    shapes: tuple[tuple[int, ...], ...]
    priors: FloatArray | None

    @property
    def classes(self) -> int:
        """How many names the manifest has."""
        return len(self.manifest.labels.names)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the input, in pixels."""
        return self.manifest.input.width, self.manifest.input.height

    def unit(self, normalized: bool) -> tuple[float, float]:
        """Input pixels a unit of the boxes, along x and y."""
        return self.size if normalized else (1.0, 1.0)

    def want(self, *shapes: tuple[int | str, ...], why: str = "") -> None:
        """Refuse other results than these; a letter stands for any length of 1 or more.

        Raises
        ------
        ModelError
            The shapes differ; the message names the head, what was wanted and what was got.
        """
        if len(shapes) == len(self.shapes) and all(map(_fits, self.shapes, shapes)):
            return
        text = ", ".join("(" + ", ".join(map(str, shape)) + ")" for shape in shapes)
        raise self.refuse(
            f"the model's results are {', '.join(map(str, self.shapes)) or 'none'}",
            f"{text}{' with ' if why else ''}{why}",
        )

    def refuse(self, found: str, wanted: str) -> ModelError:
        """The error for a model that is not what its manifest says."""
        return ModelError(
            f"head {_kind(self.manifest)}: {found}",
            wanted=wanted,
            fix="correct [head], [input] or [labels] of the manifest, or cut the model where its head begins",
        )

    def cells(self, strides: Sequence[int]) -> list[FloatArray]:
        """For each stride the (n, 3) float32 column, row and stride of every cell, row by row."""
        width, height = self.size
        grids = []
        for stride in strides:
            rows, columns = np.mgrid[: height // stride, : width // stride]
            grid = np.stack([columns, rows, np.full_like(rows, stride)], -1).reshape(-1, 3)
            grids.append(grid.astype(np.float32))
        return grids


def _kind(manifest: Manifest) -> str:
    return str(type(manifest.head).__struct_config__.tag)


def _fits(shape: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        (isinstance(b, str) and a > 0) or a == b for a, b in zip(shape, wanted, strict=True)
    )


def _detection_output(outputs: ModelOutputs, head: DetectionOutput) -> Scan:
    outputs.want((1, 1, "N", 7))
    width, height = outputs.size

    def scan(tensors: Tensors, out: Candidates, t: Thresholds) -> None:
        strange = scan_boxes(
            tensors[0], 1, 2, 3, 0, width, height, head.first_label, outputs.classes, out, t.confidence
        )
        _check_label(strange, head.first_label, outputs.classes)

    return scan


def _end_to_end(outputs: ModelOutputs, head: EndToEnd) -> Scan:
    outputs.want((1, "K", 6))
    width, height = outputs.unit(head.normalized)

    def scan(tensors: Tensors, out: Candidates, t: Thresholds) -> None:
        strange = scan_boxes(tensors[0], 5, 4, 0, -1, width, height, 0, outputs.classes, out, t.confidence)
        _check_label(strange, 0, outputs.classes)

    return scan


def _check_label(strange: float | None, first: int, classes: int) -> None:
    if strange is not None:
        raise ModelError(
            f"the model found a box of label {strange:g}",
            wanted=f"{first} to {first + classes - 1}: the manifest has {classes} names",
            fix="give the bundle the labels that the model was trained with",
        )


def _ssd(outputs: ModelOutputs, head: Ssd) -> Scan:
    n = outputs.shapes[0][1] if outputs.shapes and len(outputs.shapes[0]) == 3 else 0
    depth = outputs.classes + head.background
    why = f"{outputs.classes} names{' and a background' if head.background else ''}"
    outputs.want((1, n or "N", 4), (1, n or "N", depth), why=why)
    priors = outputs.priors
    if priors is None or priors.shape != (n, 4) or priors.dtype != np.float32:
        found = "no priors" if priors is None else f"priors {priors.dtype} {priors.shape}"
        raise outputs.refuse(found, f"float32 ({n}, 4) in the bundle's priors.npy")
    priors = np.ascontiguousarray(priors)
    width, height = outputs.size
    activation = ("none", "sigmoid", "softmax").index(head.activation)

    def scan(tensors: Tensors, out: Candidates, t: Thresholds) -> None:
        codes, scores = tensors
        scan_ssd(
            codes,
            scores,
            priors,
            head.scales,
            width,
            height,
            activation,
            head.background,
            out,
            t.confidence,
            t.multi_label,
        )

    return scan


def _yolo_anchor(outputs: ModelOutputs, head: YoloAnchor) -> Scan:
    last = head.layout == "nhwc"
    depths = [len(mask) * (5 + outputs.classes) for mask in head.masks]
    why = f"{outputs.classes} names and masks {head.masks}"
    outputs.want(*((1, "h", "w", d) if last else (1, d, "h", "w") for d in depths), why=why)
    anchors = [np.array([head.anchors[i] for i in mask], np.float32) for mask in head.masks]
    stretch = head.scale_xy or (1.0,) * len(head.masks)
    sizes = [int(np.prod(shape)) // (5 + outputs.classes) for shape in outputs.shapes]
    first = [sum(sizes[:i]) for i in range(len(sizes))]
    width, height = outputs.size

    def scan(tensors: Tensors, out: Candidates, t: Thresholds) -> None:
        for tensor, pairs, scale, begin in zip(tensors, anchors, stretch, first, strict=True):
            scan_anchor(tensor, pairs, width, height, scale, last, begin, out, t.confidence, t.multi_label)

    return scan


def _yolo_v5(outputs: ModelOutputs, head: YoloV5) -> Scan:
    outputs.want((1, "N", 5 + outputs.classes), why=f"{outputs.classes} names")
    width, height = outputs.unit(head.normalized)

    def scan(tensors: Tensors, out: Candidates, t: Thresholds) -> None:
        scan_v5(tensors[0], width, height, out, t.confidence, t.multi_label)

    return scan


def _yolox(outputs: ModelOutputs, head: Yolox) -> Scan:
    cells = np.concatenate(outputs.cells(head.strides))
    why = f"{outputs.classes} names and {len(cells)} cells of strides {head.strides}"
    outputs.want((1, len(cells), 5 + outputs.classes), why=why)

    def scan(tensors: Tensors, out: Candidates, t: Thresholds) -> None:
        scan_x(tensors[0], cells, out, t.confidence, t.multi_label)

    return scan


def _yolo_v8(outputs: ModelOutputs, head: YoloV8) -> Scan:
    depth = 4 + outputs.classes
    columns = head.layout == "channels_first"
    shape = (1, depth, "N") if columns else (1, "N", depth)
    outputs.want(shape, why=f"{outputs.classes} names, {head.layout}")
    width, height = outputs.unit(head.normalized)

    def scan_first(tensors: Tensors, out: Candidates, t: Thresholds) -> None:
        scan_v8_columns(tensors[0], width, height, out, t.confidence, t.multi_label)

    def scan_last(tensors: Tensors, out: Candidates, t: Thresholds) -> None:
        scan_v8_rows(tensors[0], width, height, out, t.confidence, t.multi_label)

    return scan_first if columns else scan_last


def _yolo_v8_raw(outputs: ModelOutputs, head: YoloV8Raw) -> Scan:
    cells = outputs.cells(head.strides)
    sides, depth, n = 4 * head.bins, 4 * head.bins + outputs.classes, sum(map(len, cells))
    why = f"{outputs.classes} names, {head.bins} bins and {n} cells of strides {head.strides}"
    width, height = outputs.size
    if head.tensors == "joined":
        outputs.want((1, depth, n), why=why)
    elif head.tensors == "split":
        outputs.want((1, sides, n), (1, outputs.classes, n), why=why)
    else:
        outputs.want(*((1, depth, height // s, width // s) for s in head.strides), why=why)
    if head.tensors != "scales":
        cells = [np.concatenate(cells)]
    first = [sum(map(len, cells[:i])) for i in range(len(cells))]

    def scan(tensors: Tensors, out: Candidates, t: Thresholds) -> None:
        if head.tensors == "split":
            distances, classes = tensors
            scan_v8_raw(distances, classes, cells[0], head.bins, 0, out, t.confidence, t.multi_label)
            return
        for tensor, grid, begin in zip(tensors, cells, first, strict=True):
            scan_v8_raw(tensor, None, grid, head.bins, begin, out, t.confidence, t.multi_label)

    return scan


def parts_of(head: Head) -> int:
    """How many scans a frame takes: one a scale where these come apart."""
    if isinstance(head, YoloAnchor):
        return len(head.masks)
    return len(head.strides) if isinstance(head, YoloV8Raw) and head.tensors == "scales" else 1


def scan_for(outputs: ModelOutputs) -> Scan:
    """The kernel of the manifest's head, once the model's results were found to be what it needs.

    Raises
    ------
    ModelError
        The shapes are not what the manifest's head and labels need.
    """
    match outputs.manifest.head:
        case DetectionOutput() as head:
            return _detection_output(outputs, head)
        case EndToEnd() as head:
            return _end_to_end(outputs, head)
        case Ssd() as head:
            return _ssd(outputs, head)
        case YoloAnchor() as head:
            return _yolo_anchor(outputs, head)
        case YoloV5() as head:
            return _yolo_v5(outputs, head)
        case Yolox() as head:
            return _yolox(outputs, head)
        case YoloV8() as head:
            return _yolo_v8(outputs, head)
        case YoloV8Raw() as head:
            return _yolo_v8_raw(outputs, head)
        case head:
            raise ModelError(f"head {_kind(outputs.manifest)} finds no boxes", wanted="a head for detection")
