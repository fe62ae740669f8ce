"""Frames into model inputs, and boxes back: the only coordinate maths in Python.

A pixel coordinate x counts from the left edge of the leftmost pixel, so that a frame spans 0..width and
a box needs no `+ 1`. Scaling is exact: the scale is that of the integer size that was really resized to.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from qzd_ext.detections import FloatArray
from qzd_ext.manifest import Input

__all__ = ["Frame", "Transform", "fit", "prepare"]

Frame = npt.NDArray[np.uint8]
"""(height, width, 3) uint8, BGR."""


@dataclass(frozen=True, slots=True)
class Transform:
    """How a frame was laid into the input: `input = source * scale + offset`, per axis.

    Attributes
    ----------
    source_width, source_height : int
        Of the frame, in pixels.
    scale_x, scale_y : float
        Input pixels a source pixel.
    offset_x, offset_y : int
        Of the frame's top left corner in the input; negative where the frame is cropped.
    """

    source_width: int
    source_height: int
    scale_x: float
    scale_y: float
    offset_x: int
    offset_y: int

    def to_source(self, boxes: FloatArray) -> FloatArray:
        """Boxes in input pixels to boxes in source pixels, clipped to the frame.

        Parameters
        ----------
        boxes : (n, 4) float32
            x0 y0 x1 y1 in input pixels.

        Returns
        -------
        (n, 4) float32
            x0 y0 x1 y1 in source pixels, 0 <= x <= source_width, 0 <= y <= source_height.
        """
        offset = np.array([self.offset_x, self.offset_y] * 2, np.float32)
        scale = np.array([self.scale_x, self.scale_y] * 2, np.float32)
        limit = np.array([self.source_width, self.source_height] * 2, np.float32)
        return np.asarray(np.clip((boxes - offset) / scale, np.float32(0), limit), np.float32)

    def to_input(self, boxes: FloatArray) -> FloatArray:
        """Boxes in source pixels, (n, 4) float32 xyxy, to boxes in input pixels, not clipped."""
        offset = np.array([self.offset_x, self.offset_y] * 2, np.float32)
        scale = np.array([self.scale_x, self.scale_y] * 2, np.float32)
        return boxes * scale + offset


def _scaled_size(width: int, height: int, spec: Input) -> tuple[int, int]:
    """Width and height, in pixels, that a frame is resized to."""
    if spec.resize == "stretch":
        return spec.width, spec.height
    if spec.resize == "letterbox":
        ratio = min(spec.width / width, spec.height / height)
        return min(max(round(width * ratio), 1), spec.width), min(max(round(height * ratio), 1), spec.height)
    ratio = spec.short_side / min(width, height)
    return max(round(width * ratio), spec.width), max(round(height * ratio), spec.height)


def fit(width: int, height: int, spec: Input) -> Transform:
    """How a frame of this size is laid into a model's input.

    A centred letterbox with an odd rest has the larger part to the right and below, as Ultralytics'
    LetterBox has it; a centre crop leaves the smaller part to the left and above.
    """
    new_width, new_height = _scaled_size(width, height, spec)
    offset_x = offset_y = 0
    if spec.resize == "crop" or (spec.resize == "letterbox" and spec.anchor == "center"):
        offset_x = int((spec.width - new_width) / 2)
        offset_y = int((spec.height - new_height) / 2)
    return Transform(width, height, new_width / width, new_height / height, offset_x, offset_y)


def prepare(frame: Frame, spec: Input, out: Frame) -> Transform:
    """Lay a frame into a model's input tensor, in place.

    Parameters
    ----------
    frame : (h, w, 3) uint8, BGR
    spec : Input
        Size, way of resizing, anchor and pad value.
    out : (spec.height, spec.width, 3) uint8, C-contiguous
        Overwritten whole.

    Returns
    -------
    Transform
        What leads boxes back into the frame.
    """
    height, width = frame.shape[:2]
    transform = fit(width, height, spec)
    size = _scaled_size(width, height, spec)
    if spec.resize == "stretch":
        cv2.resize(frame, size, dst=out, interpolation=cv2.INTER_LINEAR)
    elif spec.resize == "letterbox":
        left, top = transform.offset_x, transform.offset_y
        right, bottom = left + size[0], top + size[1]
        out[:top] = out[bottom:] = spec.pad
        out[top:bottom, :left] = out[top:bottom, right:] = spec.pad
        cv2.resize(frame, size, dst=out[top:bottom, left:right], interpolation=cv2.INTER_LINEAR)
    else:
        scaled = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
        left, top = -transform.offset_x, -transform.offset_y
        out[:] = scaled[top : top + spec.height, left : left + spec.width]
    return transform
