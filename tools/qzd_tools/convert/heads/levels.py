"""Boxes measured from grid cells that a graph leaves to its user: NanoDet, PicoDet, RTMDet, SCRFD, YuNet.

They come as one tensor, or as two or more per level of a feature pyramid. Those of the levels are joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from qzd_ext.manifest import Dfl, Distances, Yolox
from qzd_tools.convert.facts import Recognised, known
from qzd_tools.convert.heads.boxes_scores import FACE
from qzd_tools.convert.heads.ssd import is_raw
from qzd_tools.convert.heads.subject import Subject, shape_of
from qzd_tools.convert.heads.trial import is_scores, run_trial
from qzd_tools.graph.walk import producers

__all__ = ["joined_cells", "levels"]

STRIDES = (4, 8, 16, 32, 64, 128)
IMAGENET_BGR = {"color": "bgr", "mean": (103.53, 116.28, 123.675), "scale": (57.375, 57.12, 58.395)}
NANODET = known("as NanoDet's published training has it", resize="stretch", **IMAGENET_BGR)
RTMDET = known("as RTMDet's published training has it", resize="letterbox", anchor="corner", pad=114,
               **IMAGENET_BGR)  # fmt: skip
PICODET = known(
    "as PicoDet's published training has it",
    color="rgb", mean=(123.675, 116.28, 103.53), scale=(58.395, 57.12, 57.375), resize="stretch",
)  # fmt: skip
SCRFD = known(
    "as insightface feeds SCRFD",
    color="rgb", mean=(127.5,), scale=(128.0,), resize="letterbox", anchor="corner", pad=0,
)  # fmt: skip
YUNET = known(
    "as OpenCV feeds YuNet",
    color="bgr", mean=(0.0,), scale=(1.0,), resize="letterbox", anchor="corner", pad=0,
)  # fmt: skip


def joined_cells(subject: Subject) -> Recognised | str:
    """One output [1,N,C+4*bins] with a row per cell: classes from Sigmoid, then distributions."""
    output = subject.only_output
    shape = shape_of(output) if output is not None else ()
    if output is None or len(shape) != 3 or shape[0] != 1:
        return "not one output [1,N,C+4*bins]"
    parts = producers(output)
    strides = subject.grids(shape[1])
    if strides is None or parts[0].get_node().get_type_name() != "Sigmoid":
        return "not a row per grid cell that begins with classes from Sigmoid"
    classes = [c for c in shape_of(parts[0])[1:] if (shape[2] - c) % 4 == 0 and shape[2] - c >= 8]
    if not classes or not all(is_raw(p) for p in parts if p.get_node().get_type_name() != "Sigmoid"):
        return "what follows its classes are not raw distributions"
    bins = (shape[2] - classes[0]) // 4
    offset = 0.0 if len(strides) == 4 else 0.5
    return Recognised(
        Dfl(strides=strides, bins=bins, offset=offset, tensors="classes_boxes"),
        (output,),
        classes[0],
        f"[1,{shape[1]},{shape[2]}] on grids of strides {strides}: {classes[0]} classes from Sigmoid and 4 "
        f"distributions over {bins} bins, from {offset:g} of a cell on",
        NANODET,
    )


@dataclass(frozen=True, slots=True)
class _Level:
    """The tensors of one level, each [1, n, channels], narrowest first."""

    stride: int
    boxes: int
    tensors: list[tuple[int, ov.Output]]


def levels(subject: Subject) -> Recognised | str:
    """Two or more tensors per level: classes and sides, for faces objectness and landmarks as well."""
    found = _levels(subject)
    if isinstance(found, str):
        return found
    widths = [width for width, _ in found[0].tensors]
    boxes, strides = found[0].boxes, tuple(level.stride for level in found)
    if widths in ([1, 1, 4], [1, 1, 4, 10]) and boxes == 1:
        return _yunet(subject, found, strides)
    if widths in ([1, 4], [1, 4, 10]):
        scores, sides = (_join(found, [k]) for k in (0, 1))
        head = Distances(strides=strides, offset=0.0, boxes_per_cell=boxes, activation=_activation(found, 0))
        reason = f"{boxes} boxes per cell of strides {strides}, one score and 4 distances each, as from SCRFD"
        return Recognised(head, (sides, scores), 1, reason + "; landmarks are left out" * (len(widths) == 3),
                          SCRFD.over(FACE))  # fmt: skip
    if len(widths) != 2 or boxes != 1:
        return f"tensors of {widths} channels on each level are no classes and sides"
    return _classes_and_sides(subject, found, widths, strides)


def _levels(subject: Subject) -> list[_Level] | str:
    groups: dict[int, list[tuple[int, ov.Output]]] = {}
    for output in subject.outputs:
        rows = _rows(subject, output)
        if rows is None:
            return "its outputs are not all rows or maps of grid cells"
        n, width, laid = rows
        groups.setdefault(n, []).append((width, laid))
    found = []
    for n, tensors in groups.items():
        fits = [(s, k) for s in STRIDES for k in (1, 2) if subject.cells([s]) * k == n]
        if not fits:
            return f"{n} rows are no grid of {subject.width}x{subject.height}"
        found.append((n, fits, sorted(tensors, key=lambda t: t[0])))
    widths = {tuple(w for w, _ in tensors) for _, _, tensors in found}
    counts = {k for _, fits, _ in found for _, k in fits}
    if len(widths) != 1 or len(found) < 2 or len(next(iter(widths))) < 2:
        return "not the same two or more tensors on each of several levels"
    for boxes in sorted(counts):
        picked = [next((s for s, k in fits if k == boxes), None) for _, fits, _ in found]
        if None not in picked and len(set(picked)) == len(picked):
            made = [_Level(s or 0, boxes, t) for s, (_, _, t) in zip(picked, found, strict=True)]
            return sorted(made, key=lambda level: level.stride)
    return "its levels are no grids of one kind"


def _rows(subject: Subject, output: ov.Output) -> tuple[int, int, ov.Output] | None:
    """An output as [1, n, channels]; with n and channels."""
    shape = shape_of(output)
    if len(shape) == 4 and shape[0] == 1:
        if shape[2] * shape[3] in {subject.cells([s]) for s in STRIDES}:
            output = ops.transpose(output, np.array([0, 2, 3, 1])).output(0)
            shape = shape_of(output)
        n, width = shape[1] * shape[2], shape[3]
    elif len(shape) in {2, 3} and (len(shape) == 2 or shape[0] == 1):
        n, width = shape[-2:]
    else:
        return None
    return n, width, ops.reshape(output, np.array([1, n, width]), special_zero=False).output(0)


def _join(found: Sequence[_Level], places: Sequence[int]) -> ov.Output:
    """The tensors at these places of all levels, side by side, one level after the other."""
    parts = []
    for level in found:
        chosen = [level.tensors[k][1] for k in places]
        parts.append(ops.concat(chosen, 2).output(0) if len(chosen) > 1 else chosen[0])
    return ops.concat(parts, 1).output(0)


def _activation(found: Sequence[_Level], place: int) -> Literal["sigmoid", "none"]:
    kinds = {p.get_node().get_type_name() for p in producers(found[0].tensors[place][1])}
    return "none" if kinds == {"Sigmoid"} else "sigmoid"


def _yunet(subject: Subject, found: list[_Level], strides: tuple[int, ...]) -> Recognised | str:
    joined = _join(found, [2, 0, 1])
    if not is_scores(run_trial(subject, [joined])[0][..., 4:]):
        return "its scores are not in 0..1"
    return Recognised(
        Yolox(strides=strides, score="geometric_mean"), (joined,), 1,
        f"offsets, objectness and class on levels of strides {strides}, as YuNet has them; without landmarks",
        YUNET.over(FACE),
    )  # fmt: skip


def _classes_and_sides(
    subject: Subject, found: list[_Level], widths: list[int], strides: tuple[int, ...]
) -> Recognised | str:
    sigmoid = [_activation(found, k) == "none" for k in (0, 1)]
    if sigmoid[0] != sigmoid[1]:
        classes = sigmoid.index(True)
    elif widths[0] == 4 and widths[1] != 4:
        classes = 1
    elif widths[1] % 4 == 0 and widths[1] in {32, 64, 68} and widths[0] != 4:
        classes = 0
    else:
        return f"of {widths} channels it cannot be told which are the classes"
    sides, scores = _join(found, [1 - classes]), _join(found, [classes])
    count, width = widths[classes], widths[1 - classes]
    activation = _activation(found, classes)
    if width % 4:
        return f"{width} channels are no four sides"
    if width == 4:
        unit = _unit(subject, sides, strides)
        return Recognised(
            Distances(strides=strides, offset=0.0, unit=unit, activation=activation), (sides, scores), count,
            f"{count} classes and 4 distances in {unit} on levels of strides {strides}, as RTMDet has them",
            RTMDET,
        )  # fmt: skip
    offset, family = (0.5, PICODET) if len(strides) == 4 else (0.5, NANODET)
    return Recognised(
        Dfl(strides=strides, bins=width // 4, offset=offset, activation=activation), (sides, scores), count,
        f"{count} classes and 4 distributions over {width // 4} bins on levels of strides {strides}", family,
    )  # fmt: skip


def _unit(subject: Subject, sides: ov.Output, strides: Sequence[int]) -> Literal["strides", "pixels"]:
    """Whether distances grow with the stride: then they are in pixels already."""
    values = np.abs(run_trial(subject, [sides])[0])
    ends = np.cumsum([subject.cells([s]) for s in strides])
    medians = [float(np.median(part)) for part in np.split(values, ends[:-1], axis=1)]
    grown = medians[-1] / max(medians[0], 1e-9)
    return "pixels" if grown > (strides[-1] / strides[0]) ** 0.5 else "strides"
