"""Sample images with what two bundles find in them, side by side."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from qzd_ext.bundle import Bundle
from qzd_ext.detections import Classes, Detections
from qzd_ext.detector import Detector
from qzd_ext.geometry import Frame
from qzd_ext.golden import Tolerance, compare
from qzd_tools.data.images import evenly, read_image, shrunk

__all__ = ["Sample", "sample_images"]

CANDIDATES = 24
LONGEST_SIDE = 560
"""Pixels, as embedded."""
NEAR = Tolerance(score=0.1, iou=0.7)
"""What counts as the same box when images are chosen."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An image as two bundles see it; the pictures are data URLs."""

    name: str
    differences: int
    before: str
    after: str
    words_before: str
    words_after: str


def sample_images(
    before: Bundle, after: Bundle, images: Sequence[Path], count: int = 4
) -> list[Sample]:
    """Run both bundles on some images and show them: half where they differ most, half where least.

    Parameters
    ----------
    before, after : Bundle
    images : sequence of Path
        At most 24 of them, evenly taken, are looked at.
    count : int
        How many are shown.

    Raises
    ------
    QzdError
        An image cannot be read, or a bundle cannot be run.
    """
    limit = after.manifest.thresholds.confidence
    seen = []
    with Detector(before) as first, Detector(after) as second:
        for path in evenly(images, CANDIDATES):
            frame = read_image(path)
            pair = (first.detect(frame).found, second.detect(frame).found)
            seen.append((len(compare(*pair, NEAR, limit)), path, pair))
    seen.sort(key=lambda one: (-one[0], one[1].name))
    most = seen[: (count + 1) // 2]
    rest = [one for one in seen[len(most) :] if len(one[2][0])] or seen[len(most) :]
    shown = most + rest[len(rest) - min(count // 2, len(rest)) :]
    return [_sample(path, pair, before, n) for n, path, pair in shown]


def _sample(
    path: Path, pair: tuple[Detections | Classes, ...], bundle: Bundle, differences: int
) -> Sample:
    frame = read_image(path)  # once more: those that are not shown need not be kept
    names = [bundle.manifest.labels.name(i) for i in range(len(bundle.manifest.labels.names))]
    pictures = [_data_url(_drawn(frame, found, names)) for found in pair]
    words = [_words(found, names) for found in pair]
    return Sample(path.name, differences, *pictures, *words)


def _words(found: Detections | Classes, names: list[str]) -> str:
    shown = [f"{names[c]} {s:.2f}" for c, s in zip(found.class_ids[:3], found.scores[:3], strict=True)]
    if isinstance(found, Classes):
        return ", ".join(shown)
    return f"{len(found)} boxes" if len(found) != 1 else "1 box"


def _drawn(frame: Frame, found: Detections | Classes, names: list[str]) -> Frame:
    scale = min(LONGEST_SIDE / max(frame.shape[:2]), 1.0)
    picture = shrunk(frame, LONGEST_SIDE).copy()
    if isinstance(found, Detections):
        for box, score, number in zip(found.boxes * scale, found.scores, found.class_ids, strict=True):
            _draw_box(picture, [int(v) for v in box], f"{names[number]} {score:.2f}", int(number))
    return picture


def _draw_box(picture: Frame, box: list[int], text: str, number: int) -> None:
    x0, y0, x1, y1 = box
    hue = np.array([[[(number * 67) % 180, 200, 230]]], np.uint8)
    colour = tuple(int(v) for v in cv2.cvtColor(hue, cv2.COLOR_HSV2BGR)[0, 0])
    cv2.rectangle(picture, (x0, y0), (x1, y1), colour, 2)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
    top = max(y0, height + 6)
    cv2.rectangle(picture, (x0, top - height - 6), (x0 + width + 4, top), colour, -1)
    cv2.putText(picture, text, (x0 + 2, top - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)


def _data_url(picture: Frame) -> str:
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 82])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
