"""The anchor-free YOLO heads and YOLOv5's: one tensor with a box a grid cell, or three.

Each function takes a graph and gives the head it found, or says in a few words why it is not that one.
"""

from __future__ import annotations

import openvino as ov

from qzd_ext.manifest import YoloV5, YoloV8, YoloV8Raw, Yolox
from qzd_tools.convert.dfl import raw_distributions
from qzd_tools.convert.facts import Recognised, known
from qzd_tools.convert.graph import ancestors, producers
from qzd_tools.convert.seen import Seen, is_rows, shape_of

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


def yolo_v8(seen: Seen) -> Recognised | str:
    """Columns (or rows) of decoded boxes and classes, without an objectness."""
    output = seen.only_output
    if output is None or not is_rows(output):
        return "not one output [1,4+C,N] or [1,N,4+C]"
    rows, columns = shape_of(output)[1:]
    asked_for = seen.asked is not None
    first = seen.grids(columns) is not None or (asked_for and seen.grids(rows) is None and rows < columns)
    cells, channels = (columns, rows) if first else (rows, columns)
    if channels < 5 or (seen.grids(cells) is None and not asked_for):
        return f"neither {rows} nor {columns} is the number of grid cells of {seen.width}x{seen.height}"
    ends = producers(output)
    sigmoids = [p for p in ends if p.get_node().get_type_name() == "Sigmoid"]
    if not asked_for and (not sigmoids or 1 in {_channels(p, channels - 4) for p in sigmoids}):
        return "its classes do not all come from Sigmoid, or there is an objectness"
    return Recognised(
        YoloV8(
            layout="channels_first" if first else "channels_last", normalized=bool(seen.facts.normalized)
        ),
        (output,),
        channels - 4,
        f"[1,{rows},{columns}]: {cells} grid cells, each 4 coordinates decoded in "
        f"{'0..1' if seen.facts.normalized else 'input pixels'} and {channels - 4} classes from Sigmoid, "
        "no objectness",
        ULTRALYTICS,
    )


def yolo_v8_raw(seen: Seen) -> Recognised | str:
    """The same, cut off before its DFL."""
    output = seen.only_output
    whole = yolo_v8(seen)
    if output is None or isinstance(whole, str):
        return str(whole)
    rows, columns = shape_of(output)[1:]
    cells = columns if seen.grids(columns) else rows
    cut = raw_distributions(output, cells, whole.classes)
    strides = seen.grids(cells)
    if cut is None or strides is None:
        return "no distributions (DFL) behind its boxes"
    return Recognised(
        YoloV8Raw(strides=strides, bins=cut[1], tensors="joined"),
        (cut[0],),
        whole.classes,
        f"[1,{rows},{columns}], cut off before its DFL: {cells} grid cells, each 4 distributions over "
        f"{cut[1]} bins and {whole.classes} class logits",
        ULTRALYTICS,
    )


def _channels(output: ov.Output, classes: int) -> int:
    """Class channels of a Sigmoid; 1 for an objectness beside several classes."""
    return classes if classes == 1 or classes in shape_of(output) else 1


def yolo_v5(seen: Seen) -> Recognised | str:
    """Rows of decoded boxes with an objectness; one a cell from YOLOX, three from YOLOv5."""
    output = seen.only_output
    if output is None or not is_rows(output) or shape_of(output)[2] < 6:
        return "not one output [1,N,5+C]"
    rows, columns = shape_of(output)[1:]
    anchors = next((a for a in (3, 1) if rows % a == 0 and seen.grids(rows // a)), None)
    if seen.asked is None and anchors is None:
        return f"{rows} rows are no grid of {seen.width}x{seen.height}, with 1 or 3 anchors"
    if seen.asked is None and "Sigmoid" not in {n.get_type_name() for n in ancestors(output)}:
        return "no Sigmoid before it"
    return Recognised(
        YoloV5(normalized=bool(seen.facts.normalized)),
        (output,),
        columns - 5,
        f"[1,{rows},{columns}]: {anchors or '?'} boxes a grid cell, decoded in the graph in "
        f"{'0..1' if seen.facts.normalized else 'input pixels'}, objectness and {columns - 5} classes",
        YOLOX if anchors == 1 else ULTRALYTICS,
    )
