"""Frames into model inputs, and boxes back: the only coordinate maths in Python.

A pixel coordinate x counts from the left edge of the leftmost pixel, so that a frame spans 0..width and
a box needs no `+ 1`. Scaling is exact: the scale is that of the integer size that was really resized to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from qzd_ext.errors import DataError
from qzd_ext.manifest import Input

__all__ = ["Frame", "Picture", "Transform", "fit", "prepare", "size_of"]

Frame = npt.NDArray[np.uint8]
"""(height, width, 3) uint8, BGR."""


class Picture(Protocol):
    """A picture that is not converted to BGR yet."""

    @property
    def width(self) -> int:
        """In pixels."""
        ...

    @property
    def height(self) -> int:
        """In pixels."""
        ...

    def to_bgr(self) -> Frame:
        """Convert the whole picture."""
        ...


@dataclass(frozen=True, slots=True)
class Transform:
    """How a frame was laid into the input: `input = source * scale + offset`, per axis.

    Attributes
    ----------
    source_width, source_height : int
        Of the frame, in pixels.
    scale_x, scale_y : float
        Input pixels a source pixel.
    offset_x, offset_y : float
        Of the frame's top left corner in the input; negative where the frame is cropped.
    """

    source_width: int
    source_height: int
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which region of the frame is resized, to what size, and where it then lies in the input."""

    left: int
    top: int
    region: tuple[int, int]
    scaled: tuple[int, int]
    x: int
    y: int


def _layout(width: int, height: int, spec: Input) -> _Layout:
    if spec.resize == "crop":
        return _crop_layout(width, height, spec)
    if spec.resize == "stretch":
        return _Layout(0, 0, (width, height), (spec.width, spec.height), 0, 0)
    ratio = min(spec.width / width, spec.height / height)
    scaled_width = min(max(round(width * ratio), 1), spec.width)
    scaled_height = min(max(round(height * ratio), 1), spec.height)
    x = y = 0
    if spec.anchor == "center":
        x, y = (spec.width - scaled_width) // 2, (spec.height - scaled_height) // 2
    return _Layout(0, 0, (width, height), (scaled_width, scaled_height), x, y)


def _crop_layout(width: int, height: int, spec: Input) -> _Layout:
    """Resize no more of the frame than the crop shows: a frame of 4000x1 would become gigabytes."""
    ratio = spec.short_side / min(width, height)
    left = max((width - math.ceil(spec.width / ratio)) // 2, 0)
    top = max((height - math.ceil(spec.height / ratio)) // 2, 0)
    region = (width - 2 * left, height - 2 * top)
    scaled = (max(round(region[0] * ratio), spec.width), max(round(region[1] * ratio), spec.height))
    x, y = (scaled[0] - spec.width) // 2, (scaled[1] - spec.height) // 2
    return _Layout(left, top, region, scaled, -x, -y)


def fit(width: int, height: int, spec: Input) -> Transform:
    """How a frame of this size is laid into a model's input.

    A centred letterbox with an odd rest has the larger part to the right and below, as Ultralytics'
    LetterBox has it; a centre crop leaves the smaller part to the left and above.
    """
    return _transform(width, height, _layout(width, height, spec))


def _transform(width: int, height: int, layout: _Layout) -> Transform:
    scale_x = layout.scaled[0] / layout.region[0]
    scale_y = layout.scaled[1] / layout.region[1]
    x, y = layout.x - layout.left * scale_x, layout.y - layout.top * scale_y
    return Transform(width, height, scale_x, scale_y, x, y)


def prepare(frame: Frame | Picture, spec: Input, out: Frame) -> Transform:
    """Lay a frame into a model's input tensor, in place.

    Parameters
    ----------
    frame : (h, w, 3) uint8, BGR, or Picture
    spec : Input
        Size, way of resizing, anchor and pad value.
    out : (spec.height, spec.width, 3) uint8, C-contiguous
        Overwritten whole.

    Returns
    -------
    Transform
        What leads boxes back into the frame.

    Raises
    ------
    DataError
        The frame is of another form: OpenCV would write it elsewhere, and leave `out` as it was.
    """
    width, height = size_of(frame)
    pixels = frame if isinstance(frame, np.ndarray) else frame.to_bgr()
    layout = _layout(width, height, spec)
    right, bottom = layout.x + layout.scaled[0], layout.y + layout.scaled[1]
    if spec.resize == "stretch":
        cv2.resize(pixels, layout.scaled, dst=out, interpolation=cv2.INTER_LINEAR)
    elif spec.resize == "letterbox":
        out[: layout.y] = out[bottom:] = spec.pad
        out[layout.y : bottom, : layout.x] = out[layout.y : bottom, right:] = spec.pad
        inside = out[layout.y : bottom, layout.x : right]
        cv2.resize(pixels, layout.scaled, dst=inside, interpolation=cv2.INTER_LINEAR)
    else:
        region = pixels[layout.top :, layout.left :][: layout.region[1], : layout.region[0]]
        scaled = cv2.resize(region, layout.scaled, interpolation=cv2.INTER_LINEAR)
        out[:] = scaled[-layout.y :, -layout.x :][: spec.height, : spec.width]
    return _transform(width, height, layout)


def size_of(frame: Frame | Picture) -> tuple[int, int]:
    """Return width and height in pixels.

    Raises
    ------
    DataError
        An array is not a frame.
    """
    if not isinstance(frame, np.ndarray):
        return frame.width, frame.height
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        raise DataError(f"a frame is {frame.dtype} {frame.shape}", wanted="uint8 (height, width, 3), BGR")
    height, width = frame.shape[:2]
    return width, height
