"""The anchor-free YOLO heads and YOLOv5's: one tensor with a box a grid cell, or three.

Each function takes a graph and gives the head it found, or says in a few words why it is not that one.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from qzd_ext.detections import FloatArray
from qzd_ext.manifest import BoxesScores, Distances, YoloV5, YoloV8, YoloV8Raw, Yolox
from qzd_tools.convert.facts import Facts, Recognised, known
from qzd_tools.convert.heads.subject import Subject, is_rows, shape_of
from qzd_tools.convert.heads.trial import box_form, cell_form, is_normalized, run_trial
from qzd_tools.convert.heads.yolo_dfl import raw_distributions
from qzd_tools.graph.walk import ancestors, producers

__all__ = ["yolo_v5", "yolo_v8", "yolo_v8_raw", "yolox"]

ULTRALYTICS = known(
    "as Ultralytics trains all of its detectors",
    color="rgb", mean=(0.0,), scale=(255.0,), resize="letterbox", anchor="center", pad=114,
)  # fmt: skip
YOLOX = known(
    "as YOLOX's published training and export have it",
    color="bgr", mean=(0.0,), scale=(1.0,), resize="letterbox", anchor="corner", pad=114,
)  # fmt: skip


def _last_kinds(output: ov.Output) -> list[str]:
    return [p.get_node().get_type_name() for p in producers(output)]


def yolox(subject: Subject) -> Recognised | str:
    """Rows of boxes whose grid and exponential are still to be applied."""
    output = subject.only_output
    if output is None or not is_rows(output) or shape_of(output)[2] < 6:
        return "not one output [1,N,5+C]"
    rows, columns = shape_of(output)[1:]
    strides = subject.grids(rows)
    if strides is None:
        return f"{rows} rows are no grid of {subject.width}x{subject.height}"
    kinds = set(_last_kinds(output))
    if subject.asked is None and _last_kinds(output)[0] == "Sigmoid":
        return "its rows begin with what comes from Sigmoid, not with boxes"
    if subject.asked is None and not ("Sigmoid" in kinds and kinds <= {"Sigmoid", "Add", "Convolution"}):
        return f"boxes and scores come from {', '.join(sorted(kinds))}, not from convolutions and Sigmoid"
    return Recognised(
        Yolox(strides=strides),
        (output,),
        columns - 5,
        f"[1,{rows},{columns}] on grids of strides {strides}: boxes straight from convolutions, "
        f"objectness and {columns - 5} classes from Sigmoid",
        YOLOX,
    )


def _v8_rows(subject: Subject) -> tuple[ov.Output, bool, int, int] | str:
    """The output, whether its channels come first, its cells and its classes; or why it is not that head."""
    output = subject.only_output
    if output is None or not is_rows(output):
        return "not one output [1,4+C,N] or [1,N,4+C]"
    rows, columns = shape_of(output)[1:]
    asked_for = subject.asked is not None
    first = subject.grids(columns) is not None
    first = first or (asked_for and subject.grids(rows) is None and rows < columns)
    cells, channels = (columns, rows) if first else (rows, columns)
    if channels < 5 or (subject.grids(cells) is None and not asked_for):
        return f"neither {rows} nor {columns} is the number of grid cells of {subject.width}x{subject.height}"
    sigmoids = [p for p in producers(output) if p.get_node().get_type_name() == "Sigmoid"]
    if not asked_for and not (sigmoids and all(channels - 4 in shape_of(p) for p in sigmoids)):
        return "its classes do not all come from Sigmoid, or there is an objectness"
    return output, first, cells, channels - 4


def yolo_v8(subject: Subject) -> Recognised | str:
    """Columns (or rows) of boxes and classes, without an objectness; what its boxes are is tried."""
    found = _v8_rows(subject)
    if isinstance(found, str):
        return found
    output, first, cells, classes = found
    values = run_trial(subject, [output])[0]
    boxes = np.moveaxis(values[:, :4], 1, 2) if first else values[..., :4]
    strides = subject.grids(cells)
    form = "center" if strides is None or subject.asked else cell_form(subject, boxes, strides)
    rows, columns = shape_of(output)[1:]
    shown = f"[1,{rows},{columns}]: {cells} grid cells with 4 coordinates and {classes} classes from Sigmoid"
    if form == "corners":
        return _v8_corners(subject, output, first, boxes, classes, shown)
    if form == "distances" and strides is not None and not first:
        offset = 0.0 if len(strides) == 4 else 0.5
        head = Distances(strides=strides, offset=offset, tensors="boxes_classes")
        return Recognised(head, (output,), classes, f"{shown}, distances to the sides, in strides", Facts())
    if form != "center":
        return "its boxes do not lie where their grid cells are"
    normalized = _unit(subject, boxes)
    return Recognised(
        YoloV8(layout="channels_first" if first else "channels_last", normalized=normalized),
        (output,),
        classes,
        f"{shown}, decoded in {'0..1' if normalized else 'input pixels'}, no objectness",
        ULTRALYTICS,
    )


def _v8_corners(
    subject: Subject, output: ov.Output, first: bool, boxes: FloatArray, classes: int, shown: str
) -> Recognised:
    """Boxes that are corners, not centre and size, as from RTMDet and PP-YOLOE: split off from the scores."""
    axis = 1 if first else 2
    parts = ops.variadic_split(output, axis, [4, classes])
    layout: Literal["channels_first", "channels_last"] = "channels_first" if first else "channels_last"
    normalized = _unit(subject, boxes)
    return Recognised(
        BoxesScores(normalized=normalized, boxes_layout=layout, scores_layout=layout),
        (parts.output(0), parts.output(1)),
        classes,
        f"{shown}; the boxes are corners in {'0..1' if normalized else 'input pixels'}, as tried on made-up "
        "pictures",
        Facts(),
    )


def yolo_v8_raw(subject: Subject) -> Recognised | str:
    """The same, cut off before its DFL."""
    found = _v8_rows(subject)
    if isinstance(found, str):
        return found
    output, _, cells, classes = found
    cut = raw_distributions(output, cells, classes)
    strides = subject.grids(cells)
    if cut is None or strides is None:
        return "no distributions (DFL) behind its boxes"
    outputs, bins = cut
    rows, columns = shape_of(output)[1:]
    return Recognised(
        YoloV8Raw(strides=strides, bins=bins, tensors="joined" if len(outputs) == 1 else "split"),
        outputs,
        classes,
        f"[1,{rows},{columns}], cut off before its DFL: {cells} grid cells, each 4 distributions over "
        f"{bins} bins and {classes} class logits",
        ULTRALYTICS,
    )


def _unit(subject: Subject, boxes: FloatArray) -> bool:
    """Whether decoded boxes are in 0..1 of the picture, as TensorFlow's exports of these models have them.

    If nothing says it, it is tried: whatever the picture shows, the boxes of all cells span it.
    """
    stated = subject.facts.normalized
    return is_normalized(boxes) if stated is None else stated


def yolo_v5(subject: Subject) -> Recognised | str:
    """Rows of decoded boxes with an objectness; one a cell as from YOLOX, three from YOLOv5."""
    output = subject.only_output
    if output is None or not is_rows(output) or shape_of(output)[2] < 6:
        return "not one output [1,N,5+C]"
    rows, columns = shape_of(output)[1:]
    anchors = next((a for a in (3, 1) if rows % a == 0 and subject.grids(rows // a)), None)
    if subject.asked is None and anchors is None:
        return f"{rows} rows are no grid of {subject.width}x{subject.height}, with 1 or 3 anchors"
    if subject.asked is None and "Sigmoid" not in {n.get_type_name() for n in ancestors(output)}:
        return "no Sigmoid before it"
    boxes = run_trial(subject, [output])[0][..., :4]
    if subject.asked is None and box_form(boxes) != "center":
        return "its boxes are not centre and size"
    normalized = _unit(subject, boxes)
    return Recognised(
        YoloV5(normalized=normalized),
        (output,),
        columns - 5,
        f"[1,{rows},{columns}]: {anchors or '?'} boxes a grid cell, decoded in the graph in "
        f"{'0..1' if normalized else 'input pixels'}, objectness and {columns - 5} classes",
        _v5_family(output, anchors),
    )


def _v5_family(output: ov.Output, anchors: int | None) -> Facts:
    """YOLOX exponentiates sizes; another model of one box a cell, such as YOLOv6, is fed otherwise."""
    if anchors != 1:
        return ULTRALYTICS
    return YOLOX if "Exp" in {n.get_type_name() for n in ancestors(output)} else Facts()
