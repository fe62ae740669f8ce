"""Beliefs about a graph's boxes and scores, tried on made-up pictures instead of taken from shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import openvino as ov

from qzd_ext.detections import FloatArray
from qzd_tools.convert.heads.subject import Subject
from qzd_tools.graph.walk import core, cut

__all__ = ["BoxForm", "box_form", "cell_form", "is_normalized", "is_scores", "run_trial"]

SPAN = 2.0
"""Largest coordinate of boxes in 0..1; in pixels, the boxes of the last cells are far beyond it."""
MOST = 0.98
"""Part of the boxes that must agree with a belief: some of a made-up picture are degenerate."""
ALIKE = 0.9
"""Correlation of box centres with cell centres, if the boxes are decoded."""
ROUNDING = 1e-3

Doubles = npt.NDArray[np.float64]
BoxForm = Literal["corners", "center"]


def run_trial(subject: Subject, outputs: Sequence[ov.Output]) -> list[FloatArray]:
    """Return what outputs become for a few made-up pictures.

    Returns
    -------
    list of float32 arrays
        One per output, each with an axis for the pictures instead of the one for the batch.
    """
    part = cut(subject.model, outputs).clone()  # later changes of the graph leave it alone
    compiled = core().compile_model(part, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    port = part.inputs[0]
    bright = 255 if port.element_type.is_integral() or set(subject.facts.scale or ()) == {1.0} else 1
    found = []
    for picture in _pictures(tuple(port.shape)):
        values = compiled([(picture * bright).astype(port.element_type.to_dtype())])
        found.append([_unbatched(np.array(values[i], np.float32)) for i in range(len(outputs))])
    return [np.stack(one) for one in zip(*found, strict=True)]


def _unbatched(values: FloatArray) -> FloatArray:
    return values[0] if values.ndim > 2 else values


def _pictures(shape: tuple[int, ...]) -> list[FloatArray]:
    """A gradient, noise, and squares, with values in 0..1."""
    rng = np.random.default_rng(0)
    noise = rng.random(shape)
    gradient = np.broadcast_to(np.linspace(0, 1, shape[-1]), shape)
    patches = np.round(noise.mean(1, keepdims=True) + gradient) % 2
    return [np.ascontiguousarray(picture, np.float32) for picture in (gradient, noise, patches)]


def is_scores(values: FloatArray) -> bool:
    """Whether all values are in 0..1."""
    return bool(np.isfinite(values).all() and values.min() >= -ROUNDING and values.max() <= 1 + ROUNDING)


def is_normalized(boxes: FloatArray) -> bool:
    """Whether boxes, (..., 4), are in 0..1 of the picture instead of pixels."""
    return bool(np.percentile(np.abs(boxes), 99) < SPAN)


def box_form(boxes: FloatArray) -> BoxForm | None:
    """Return whether boxes, (..., 4), are corners or centre and size; None if they are neither."""
    flat = boxes.reshape(-1, 4)
    if not np.isfinite(flat).all():
        return None
    if (flat[:, 2:] >= flat[:, :2]).all(1).mean() >= MOST:
        return "corners"
    return "center" if (flat[:, 2:] >= 0).all(1).mean() >= MOST else None


def cell_form(subject: Subject, boxes: FloatArray, strides: Sequence[int]) -> str | None:
    """Return what the boxes of all cells of some grids are.

    Parameters
    ----------
    boxes : (pictures, N, 4) float32
        In the order of the cells.
    strides : sequence of int
        Of the grids.

    Returns
    -------
    str or None
        "corners" or "center" if the boxes lie where their cells are, "distances" if they are lengths that
        do not depend on the place; None if they are neither.
    """
    form = box_form(boxes)
    if form is None:
        return None
    flat = boxes.astype(np.float64)
    middle = (flat[..., :2] + flat[..., 2:]) / 2 if form == "corners" else flat[..., :2]
    alike = [_alike(middle[..., k], subject.cell_centres(strides)[:, k]) for k in (0, 1)]
    if min(alike) >= ALIKE:
        return form
    return "distances" if max(alike) < ALIKE and (boxes >= -ROUNDING).mean() >= MOST else None


def _alike(values: Doubles, cells: Doubles) -> float:
    """The least correlation with the cells over the pictures; 0 for values that do not change."""
    return min(0.0 if np.ptp(row) == 0 else float(np.corrcoef(row, cells)[0, 1]) for row in values)
