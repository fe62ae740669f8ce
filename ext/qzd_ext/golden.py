"""Golden frames: what a bundle's model must find on known images, on whatever device it runs.

They are made from the model when the bundle is made, and compared before a model is served.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np

from qzd_ext.bundle import Bundle
from qzd_ext.detections import Classes, Detections, FloatArray
from qzd_ext.errors import BundleError, UsageError
from qzd_ext.geometry import Frame
from qzd_ext.images import read_image

__all__ = ["TOLERANCES", "GoldenFrame", "Tolerance", "compare", "read_golden", "write_golden"]


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """golden/N.json; boxes are empty for a classifier."""

    scores: list[float]
    class_ids: list[int]
    boxes: list[tuple[float, float, float, float]]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a device's answer may be from the golden one.

    Attributes
    ----------
    score : float
        Largest difference of a score.
    iou : float
        Least IoU of a box and its golden one.
    """

    score: float
    iou: float


TOLERANCES = {
    "fp32": Tolerance(score=0.03, iou=0.95),
    "fp16": Tolerance(score=0.05, iou=0.90),
    "int8": Tolerance(score=0.15, iou=0.80),
    "int8-weights": Tolerance(score=0.05, iou=0.90),
}
"""By the bundle's precision. GPU and NPU compute in FP16 where the CPU computes in FP32."""

MAX_PIXELS = 40_000_000  # of a golden frame
ONE_PIXEL = 1.0
"""Boxes whose sides are all this near are the same: the IoU of tiny boxes, or empty ones, says nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class GoldenFrame:
    """A frame, (h, w, 3) uint8 BGR, and what the model found in it when the bundle was made."""

    frame: Frame
    expected: Detections | Classes


def write_golden(directory: Path, index: int, golden: GoldenFrame) -> None:
    """Write golden/INDEX.png and .json under a bundle's directory."""
    folder = directory / "golden"
    folder.mkdir(exist_ok=True)
    # OpenCV is not given the path: a name that is no UTF-8 makes it crash
    (folder / f"{index}.png").write_bytes(cv2.imencode(".png", golden.frame)[1].tobytes())
    expected = golden.expected
    boxes = expected.boxes.tolist() if isinstance(expected, Detections) else []
    stored = _Stored(expected.scores.tolist(), expected.class_ids.tolist(), boxes)
    (folder / f"{index}.json").write_bytes(msgspec.json.encode(stored))


def read_golden(bundle: Bundle) -> list[GoldenFrame]:
    """Decode the golden frames of a bundle, in their order; empty if it has none.

    Raises
    ------
    BundleError
        A picture or its JSON cannot be read.
    """
    pictures = [name for name in bundle.golden if name.endswith(".png")]
    for name in pictures:
        if not re.fullmatch(r"golden/[0-9]{1,9}\.png", name):
            raise BundleError(f"{bundle.path / name}: not a number", wanted="golden/0.png, golden/1.png, ...")
    return [_read_frame(bundle, name) for name in sorted(pictures, key=lambda n: int(Path(n).stem))]


def _read_frame(bundle: Bundle, name: str) -> GoldenFrame:
    answer = str(Path(name).with_suffix(".json"))
    if answer not in bundle.golden:
        raise _damaged(bundle.path / answer, "not listed under [files]")
    try:
        frame = read_image("png", bundle.golden[name], None, None, MAX_PIXELS)
    except UsageError as error:
        raise _damaged(bundle.path / name, error.found) from error
    try:
        stored = msgspec.json.decode(bundle.golden[answer], type=_Stored)
        expected = _expected(stored, bundle.manifest.task)
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise _damaged(bundle.path / answer, str(error)) from error
    return GoldenFrame(frame, expected)


def _damaged(path: Path, found: str) -> BundleError:
    return BundleError(f"{path}: {found}", fix="make the bundle again")


def _expected(stored: _Stored, task: str) -> Detections | Classes:
    with np.errstate(over="raise"):
        scores, class_ids = np.array(stored.scores, np.float32), np.array(stored.class_ids, np.int32)
        boxes = np.array(stored.boxes, np.float32).reshape(-1, 4)
    if task == "detection":
        return Detections(boxes, scores, class_ids)
    if not stored.scores:
        raise ValueError("no class is named")
    return Classes(scores, class_ids)


def compare(
    expected: Detections | Classes, got: Detections | Classes, tolerance: Tolerance, confidence: float
) -> list[str]:
    """Say what differs by more than the tolerance, in sentences; empty if the two agree.

    Every golden box that is surely above the threshold must have a partner of its class, and every box
    that was found surely above it must have a golden one.

    Parameters
    ----------
    confidence : float
        The threshold both were made with. A box within `tolerance.score` of it may be missing.
    """
    if isinstance(expected, Classes) or isinstance(got, Classes):
        return _compare_classes(expected, got, tolerance)
    sure = confidence + tolerance.score
    return [
        *_unmatched(expected, got, tolerance, sure, "is missing or has changed"),
        *_unmatched(got, expected, tolerance, sure, "was not found when the bundle was made"),
    ]


def _unmatched(a: Detections, b: Detections, tolerance: Tolerance, sure: float, what: str) -> list[str]:
    found = []
    for i in np.flatnonzero(a.scores >= sure):
        near = (b.class_ids == a.class_ids[i]) & (np.abs(b.scores - a.scores[i]) <= tolerance.score)
        there = _iou(a.boxes[i], b.boxes[near]) >= tolerance.iou
        there |= np.abs(b.boxes[near] - a.boxes[i]).max(axis=1) <= ONE_PIXEL
        if not there.any():
            box = [round(float(v), 1) for v in a.boxes[i]]
            found.append(f"class {a.class_ids[i]} with score {a.scores[i]:.2f} at {box} {what}")
    return found


def _iou(box: FloatArray, others: FloatArray) -> FloatArray:
    top_left = np.maximum(box[:2], others[:, :2])
    bottom_right = np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.maximum(bottom_right - top_left, 0), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    return np.asarray(shared / np.maximum(areas - shared, 1e-9), np.float32)


def _compare_classes(
    expected: Detections | Classes, got: Detections | Classes, tolerance: Tolerance
) -> list[str]:
    scores = dict(zip(got.class_ids.tolist(), got.scores.tolist(), strict=True))
    best, score = int(expected.class_ids[0]), float(expected.scores[0])
    if abs(scores.get(best, 0.0) - score) <= tolerance.score:
        return []
    return [f"class {best} should have score {score:.2f}, got {scores.get(best, 0.0):.2f}"]
