"""The anchor-free YOLO heads and YOLOv5's: one tensor with a box a grid cell, or three.

Each function takes a graph and gives the head it found, or says in a few words why it is not that one.
"""

from __future__ import annotations

import numpy as np
import openvino as ov

from qzd_ext.manifest import YoloV5, YoloV8, YoloV8Raw, Yolox
from qzd_tools.convert.facts import Facts, Recognised, known
from qzd_tools.convert.heads.subject import Seen, is_rows, shape_of
from qzd_tools.convert.heads.yolo_dfl import raw_distributions
from qzd_tools.graph.walk import ancestors, producers, tried

__all__ = ["yolo_v5", "yolo_v8", "yolo_v8_raw", "yolox"]

ULTRALYTICS = known(
    "as Ultralytics trains all of its detectors",
    color="rgb", mean=(0.0,), scale=(255.0,), resize="letterbox", anchor="center", pad=114,
)  # fmt: skip
YOLOX = known(
    "as YOLOX's published training and export have it",
    color="bgr", mean=(0.0,), scale=(1.0,), resize="letterbox", anchor="corner", pad=114,
)  # fmt: skip


SPAN = 2.0
"""Largest centre of boxes in 0..1; in pixels, the cells of the last rows are far beyond it."""


def _last_kinds(output: ov.Output) -> list[str]:
    return [p.get_node().get_type_name() for p in producers(output)]


def yolox(seen: Seen) -> Recognised | str:
    """Rows of boxes whose grid and exponential are still to be applied."""
    output = seen.only_output
    if output is None or not is_rows(output) or shape_of(output)[2] < 6:
        return "not one output [1,N,5+C]"
    rows, columns = shape_of(output)[1:]
    strides = seen.grids(rows)
    if strides is None:
        return f"{rows} rows are no grid of {seen.width}x{seen.height}"
    kinds = set(_last_kinds(output))
    if seen.asked is None and not ("Sigmoid" in kinds and kinds <= {"Sigmoid", "Add", "Convolution"}):
        return f"boxes and scores come from {', '.join(sorted(kinds))}, not from convolutions and Sigmoid"
    return Recognised(
        Yolox(strides=strides),
        (output,),
        columns - 5,
        f"[1,{rows},{columns}] on grids of strides {strides}: boxes straight from convolutions, "
        f"objectness and {columns - 5} classes from Sigmoid",
        YOLOX,
    )


def _v8_rows(seen: Seen) -> tuple[ov.Output, bool, int, int] | str:
    """The output, whether its channels come first, its cells and its classes; or why it is not that head."""
    output = seen.only_output
    if output is None or not is_rows(output):
        return "not one output [1,4+C,N] or [1,N,4+C]"
    rows, columns = shape_of(output)[1:]
    asked_for = seen.asked is not None
    first = seen.grids(columns) is not None or (asked_for and seen.grids(rows) is None and rows < columns)
    cells, channels = (columns, rows) if first else (rows, columns)
    if channels < 5 or (seen.grids(cells) is None and not asked_for):
        return f"neither {rows} nor {columns} is the number of grid cells of {seen.width}x{seen.height}"
    sigmoids = [p for p in producers(output) if p.get_node().get_type_name() == "Sigmoid"]
    if not asked_for and not (sigmoids and all(channels - 4 in shape_of(p) for p in sigmoids)):
        return "its classes do not all come from Sigmoid, or there is an objectness"
    return output, first, cells, channels - 4


def yolo_v8(seen: Seen) -> Recognised | str:
    """Columns (or rows) of decoded boxes and classes, without an objectness."""
    found = _v8_rows(seen)
    if isinstance(found, str):
        return found
    output, first, cells, classes = found
    normalized = _is_normalized(seen, output, 0 if first else 1)
    rows, columns = shape_of(output)[1:]
    return Recognised(
        YoloV8(layout="channels_first" if first else "channels_last", normalized=normalized),
        (output,),
        classes,
        f"[1,{rows},{columns}]: {cells} grid cells, each 4 coordinates decoded in "
        f"{'0..1' if normalized else 'input pixels'} and {classes} classes from Sigmoid, no objectness",
        ULTRALYTICS,
    )


def yolo_v8_raw(seen: Seen) -> Recognised | str:
    """The same, cut off before its DFL."""
    found = _v8_rows(seen)
    if isinstance(found, str):
        return found
    output, _, cells, classes = found
    cut = raw_distributions(output, cells, classes)
    strides = seen.grids(cells)
    if cut is None or strides is None:
        return "no distributions (DFL) behind its boxes"
    rows, columns = shape_of(output)[1:]
    return Recognised(
        YoloV8Raw(strides=strides, bins=cut[1], tensors="joined"),
        (cut[0],),
        classes,
        f"[1,{rows},{columns}], cut off before its DFL: {cells} grid cells, each 4 distributions over "
        f"{cut[1]} bins and {classes} class logits",
        ULTRALYTICS,
    )


def _is_normalized(seen: Seen, output: ov.Output, channels: int) -> bool:
    """Whether decoded boxes are in 0..1 of the picture, as TensorFlow's exports of these models have them.

    Where nothing says it, it is tried out: whatever the picture shows, the cells' boxes span all of it.
    """
    if seen.facts.normalized is not None:
        return seen.facts.normalized
    boxes = tried(seen.model, output, 0)[0]
    return bool(np.take(boxes, (0, 1), channels).max() < SPAN)


def yolo_v5(seen: Seen) -> Recognised | str:
    """Rows of decoded boxes with an objectness; one a cell as from YOLOX, three from YOLOv5."""
    output = seen.only_output
    if output is None or not is_rows(output) or shape_of(output)[2] < 6:
        return "not one output [1,N,5+C]"
    rows, columns = shape_of(output)[1:]
    anchors = next((a for a in (3, 1) if rows % a == 0 and seen.grids(rows // a)), None)
    if seen.asked is None and anchors is None:
        return f"{rows} rows are no grid of {seen.width}x{seen.height}, with 1 or 3 anchors"
    if seen.asked is None and "Sigmoid" not in {n.get_type_name() for n in ancestors(output)}:
        return "no Sigmoid before it"
    normalized = _is_normalized(seen, output, 1)
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
