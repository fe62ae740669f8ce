"""A model's tensors to detections: shapes checked once, then one kernel a head.

What may live here: the checks at the door, with what was wanted and got, and the dispatch on the head.
The maths is in the kernels `_yolo`, `_ssd` and `_nms`, and for classifiers in `classify`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qzd_ext._nms import Candidates
from qzd_ext._ssd import scan_boxes
from qzd_ext._yolo import scan_v8_columns, scan_v8_rows, scan_x
from qzd_ext.detections import Classes, Detections, FloatArray
from qzd_ext.errors import ModelError
from qzd_ext.geometry import Transform
from qzd_ext.manifest import (
    DetectionOutput,
    EndToEnd,
    Manifest,
    Thresholds,
    YoloV8,
    Yolox,
)

__all__ = ["Decoder"]

Shape = tuple[int, ...]
Scan = Callable[[Sequence[FloatArray], Candidates, Thresholds], None]


class Decoder:
    """Decodes the results of one model; many threads may share it.

    Parameters
    ----------
    manifest : Manifest
    shapes : sequence of tuple of int
        Of the model's results, in their order.
    priors : (N, 4) float32, optional
        For the head `ssd`.

    Raises
    ------
    ModelError
        The shapes are not what the manifest's head and labels need.
    """

    def __init__(
        self, manifest: Manifest, shapes: Sequence[tuple[int, ...]], priors: FloatArray | None = None
    ) -> None:
        self._classes = len(manifest.labels.names)
        self._shapes = tuple(tuple(shape) for shape in shapes)
        self._suppress = not isinstance(manifest.head, DetectionOutput | EndToEnd)
        make = _HEADS[type(manifest.head)]
        self._scan = make(manifest, self._shapes, priors)

    def decode(
        self, tensors: Sequence[FloatArray], transform: Transform, thresholds: Thresholds
    ) -> Detections | Classes:
        """Decode one frame's results.

        Parameters
        ----------
        tensors : sequence of float32 arrays
            In the order and shapes of the model's results. C-contiguous ones are read where they are,
            read-only or not; others are copied.
        transform : Transform
            How the frame was laid into the input.
        thresholds : Thresholds

        Raises
        ------
        ModelError
            A tensor has another shape or dtype than the model's results, or a box a label that the
            manifest does not know.
        """
        candidates = Candidates()
        self._scan([*map(_readable, tensors, self._shapes)], candidates, thresholds)
        t = thresholds
        if self._suppress:
            candidates.select(
                self._classes, t.iou, t.nms == "diou", t.agnostic, t.max_candidates, t.max_detections
            )
        else:
            candidates.select(self._classes, 1.0, False, False, len(candidates), t.max_detections)
        boxes, scores, class_ids = candidates.arrays(
            transform.source_width,
            transform.source_height,
            transform.scale_x,
            transform.scale_y,
            transform.offset_x,
            transform.offset_y,
        )
        return Detections(boxes, scores, class_ids, candidates.truncated, candidates.dropped)


def _readable(tensor: FloatArray, shape: Shape) -> FloatArray:
    """The tensor as the kernels read it; copied only where it is not contiguous."""
    if tensor.shape != shape or tensor.dtype != np.float32:
        raise ModelError(
            f"a result is {tensor.dtype} {tensor.shape}",
            wanted=f"float32 {shape}, as the model announced",
            fix="convert the model again",
        )
    return np.ascontiguousarray(tensor)


def _wrong(manifest: Manifest, shapes: Sequence[Shape], wanted: str) -> ModelError:
    kind = type(manifest.head).__struct_config__.tag
    return ModelError(
        f"head {kind}: the model's results are {', '.join(map(str, shapes)) or 'none'}",
        wanted=wanted,
        fix="correct the manifest's [head], [input] and [labels], or cut the model where the head begins",
    )


def _cells(manifest: Manifest, strides: Sequence[int]) -> FloatArray:
    """(N, 3) float32: column, row and stride of every cell, grid by grid, row by row."""
    grids = []
    for stride in strides:
        rows, columns = np.mgrid[: manifest.input.height // stride, : manifest.input.width // stride]
        grids.append(np.stack([columns, rows, np.full_like(rows, stride)], -1).reshape(-1, 3))
    return np.concatenate(grids).astype(np.float32)


def _unit(manifest: Manifest, normalized: bool) -> tuple[float, float]:
    """Input pixels a unit of the boxes, along x and y."""
    return (manifest.input.width, manifest.input.height) if normalized else (1.0, 1.0)


def _yolox(manifest: Manifest, shapes: Sequence[Shape], priors: object) -> Scan:
    assert isinstance(manifest.head, Yolox)
    cells = _cells(manifest, manifest.head.strides)
    if shapes != ((1, len(cells), 5 + len(manifest.labels.names)),):
        raise _wrong(
            manifest,
            shapes,
            f"one of (1, N, 5 + C): N = {len(cells)} cells of strides {manifest.head.strides} in an input of "
            f"{manifest.input.width}x{manifest.input.height}, C = {len(manifest.labels.names)} names",
        )

    def scan(tensors: Sequence[FloatArray], out: Candidates, t: Thresholds) -> None:
        scan_x(tensors[0], cells, out, t.confidence, t.multi_label)

    return scan


def _yolo_v8(manifest: Manifest, shapes: Sequence[Shape], priors: object) -> Scan:
    head = manifest.head
    assert isinstance(head, YoloV8)
    depth = 4 + len(manifest.labels.names)
    columns = head.layout == "channels_first"
    shape = shapes[0] if len(shapes) == 1 and len(shapes[0]) == 3 else (0, 0, 0)
    if shape[0] != 1 or shape[1 if columns else 2] != depth:
        wanted = f"(1, {depth}, N)" if columns else f"(1, N, {depth})"
        raise _wrong(manifest, shapes, f"one of {wanted}: 4 + {depth - 4} names, {head.layout}")
    width, height = _unit(manifest, head.normalized)

    def scan(tensors: Sequence[FloatArray], out: Candidates, t: Thresholds) -> None:
        if columns:
            plane = tensors[0][0]
            scan_v8_columns(plane[:4], plane[4:], width, height, out, t.confidence, t.multi_label)
        else:
            scan_v8_rows(tensors[0], width, height, out, t.confidence, t.multi_label)

    return scan


def _detection_output(manifest: Manifest, shapes: Sequence[Shape], priors: object) -> Scan:
    assert isinstance(manifest.head, DetectionOutput)
    shape = shapes[0] if len(shapes) == 1 and len(shapes[0]) == 4 else (0, 0, 0, 0)
    if shape[:2] != (1, 1) or shape[3] != 7:
        raise _wrong(manifest, shapes, "one of (1, 1, N, 7)")
    first, classes = manifest.head.first_label, len(manifest.labels.names)
    width, height = manifest.input.width, manifest.input.height

    def scan(tensors: Sequence[FloatArray], out: Candidates, t: Thresholds) -> None:
        rows = tensors[0].reshape(-1, 7)
        strange = scan_boxes(rows, 1, 2, 3, 0, width, height, first, classes, out, t.confidence)
        _check_label(strange, first, classes)

    return scan


def _end_to_end(manifest: Manifest, shapes: Sequence[Shape], priors: object) -> Scan:
    assert isinstance(manifest.head, EndToEnd)
    if len(shapes) != 1 or len(shapes[0]) != 3 or shapes[0][0] != 1 or shapes[0][2] != 6:
        raise _wrong(manifest, shapes, "one of (1, K, 6)")
    classes = len(manifest.labels.names)
    width, height = _unit(manifest, manifest.head.normalized)

    def scan(tensors: Sequence[FloatArray], out: Candidates, t: Thresholds) -> None:
        strange = scan_boxes(tensors[0][0], 5, 4, 0, -1, width, height, 0, classes, out, t.confidence)
        _check_label(strange, 0, classes)

    return scan


def _check_label(strange: float | None, first: int, classes: int) -> None:
    if strange is not None:
        raise ModelError(
            f"the model found a box of label {strange:g}",
            wanted=f"{first} to {first + classes - 1}: the manifest has {classes} names",
            fix="give the bundle the labels that the model was trained with",
        )


_HEADS: dict[type, Callable[[Manifest, Sequence[Shape], FloatArray | None], Scan]] = {
    DetectionOutput: _detection_output,
    Yolox: _yolox,
    YoloV8: _yolo_v8,
    EndToEnd: _end_to_end,
}
