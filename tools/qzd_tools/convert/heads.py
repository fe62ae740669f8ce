"""Which head a graph ends in, by its structure: operations and shapes, never node names.

Each recogniser takes a graph and gives the head it found, or says in a few words why it is not that one.
What may live here: the heads of plain graphs; those that formats bring along are with their formats
(`tfod`, `tflite`, `darknet_graph`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from qzd_ext.errors import ModelError, UsageError
from qzd_ext.manifest import Classification, DetectionOutput, EndToEnd, YoloV5, YoloV8, YoloV8Raw, Yolox
from qzd_tools.convert.anchors import anchor_grids
from qzd_tools.convert.dfl import raw_distributions
from qzd_tools.convert.facts import Facts, Recognised, known, wanted
from qzd_tools.convert.graph import ancestors, describe, producers, skip
from qzd_tools.convert.tfod import raw_heads

__all__ = ["KINDS", "Seen", "recognise"]

STRIDES = (
    (8, 16, 32), (16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (8, 16), (8,), (16,), (32,), (4,), (4, 8),
    (4, 8, 16),
)  # fmt: skip
"""Of the grids that anchor-free detectors have, usual ones first."""

ULTRALYTICS = known(
    "as Ultralytics trains all of its detectors",
    color="rgb", mean=(0.0,), scale=(255.0,), resize="letterbox", anchor="center", pad=114,
)  # fmt: skip
YOLOX = known(
    "as YOLOX's published training and export have it",
    color="bgr", mean=(0.0,), scale=(1.0,), resize="letterbox", anchor="corner", pad=114,
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a recogniser looks at.

    Attributes
    ----------
    model : ov.Model
    width, height : int
        Of the model's picture, in pixels.
    facts : Facts
        From flags and metadata.
    asked : str or None
        The head that a person named; its recogniser then looks at shapes alone.
    """

    model: ov.Model
    width: int
    height: int
    facts: Facts
    asked: str | None = None

    @property
    def only_output(self) -> ov.Output | None:
        """The tensor behind the model's result; None where it has several.

        Results of whole numbers do not count: TensorFlow's classifiers give their best class beside the
        scores.
        """
        results = [r.input_value(0) for r in self.model.get_results()]
        floats = [r for r in results if r.get_element_type().is_real()]
        return floats[0] if len(floats) == 1 else None

    def cells(self, strides: tuple[int, ...]) -> int:
        """Cells of the grids of these strides, all together."""
        return sum((self.height // s) * (self.width // s) for s in strides)

    def grids(self, cells: int) -> tuple[int, ...] | None:
        """The strides whose grids have that many cells."""
        return next((s for s in STRIDES if self.cells(s) == cells), None)


def recognise(seen: Seen) -> Recognised:
    """Find the head of a graph.

    Raises
    ------
    ModelError
        The graph ends in none of the heads; the message says why not in each.
    UsageError
        The head that was asked for is not one.
    """
    if seen.asked is not None and seen.asked not in KINDS:
        raise UsageError(
            f"there is no head {seen.asked}", wanted=f"one of {', '.join(KINDS)}", fix="correct --head"
        )
    tries = [(kind, seen) for kind in ([seen.asked] if seen.asked else KINDS)]
    if seen.facts.head in KINDS:  # metadata may name a head that its structure does not show
        tries.append((seen.facts.head, dataclasses.replace(seen, asked=seen.facts.head)))
    reasons = {}
    for kind, view in tries:
        found = KINDS[kind](view)
        if isinstance(found, Recognised):
            return found
        reasons[kind] = f"{kind}: {found}"
    last = ", ".join(r.input_value(0).get_node().get_type_name() for r in seen.model.get_results())
    raise ModelError(
        f"the head is not known; {describe(seen.model)}; the last operations are {last}",
        wanted="\n    ".join(["a head that qzd decodes, but it is not", *reasons.values()]),
        fix="name the nearest with --head, or export the model without its post-processing",
    )


def _shape(output: ov.Output) -> tuple[int, ...]:
    return tuple(output.shape) if output.partial_shape.is_static else ()


def _last_kinds(output: ov.Output) -> list[str]:
    return [p.get_node().get_type_name() for p in producers(output)]


def _detection_output(seen: Seen) -> Recognised | str:
    output = seen.only_output
    if output is None or len(_shape(output)) != 4 or _shape(output)[3] != 7:
        return "not one output [1,1,N,7]"
    node = skip(output).get_node()
    if node.get_type_name() != "DetectionOutput":
        return "no DetectionOutput operation"
    boxes, scores, priors = (node.input_value(i).shape[-1] for i in range(3))
    del boxes
    attributes = node.get_attributes()
    channels = scores // (priors // (4 if attributes["normalized"] else 5))
    background = attributes["background_label_id"]
    has_background = 0 <= background < channels
    first = seen.facts.first_label
    if first is None:
        first = 1 if background == 0 else 0
    return Recognised(
        DetectionOutput(first_label=first),
        (output,),
        channels - has_background,
        f"the graph ends in DetectionOutput over {channels} classes"
        + (f", of which {background} is background" if has_background else ""),
        known("as SSD detectors are trained", resize="stretch"),
    )


def _is_rows(output: ov.Output | None) -> bool:
    """Whether an output is [1, rows, columns]."""
    return output is not None and len(_shape(output)) == 3 and _shape(output)[0] == 1


def _yolox(seen: Seen) -> Recognised | str:
    output = seen.only_output
    if output is None or not _is_rows(output) or _shape(output)[2] < 6:
        return "not one output [1,N,5+C]"
    rows, columns = _shape(output)[1:]
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


def _yolo_v8(seen: Seen) -> Recognised | str:
    output = seen.only_output
    if output is None or not _is_rows(output):
        return "not one output [1,4+C,N] or [1,N,4+C]"
    rows, columns = _shape(output)[1:]
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


def _yolo_v8_raw(seen: Seen) -> Recognised | str:
    output = seen.only_output
    whole = _yolo_v8(seen)
    if output is None or isinstance(whole, str):
        return str(whole)
    rows, columns = _shape(output)[1:]
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
    return classes if classes == 1 or classes in _shape(output) else 1


def _yolo_v5(seen: Seen) -> Recognised | str:
    output = seen.only_output
    if output is None or not _is_rows(output) or _shape(output)[2] < 6:
        return "not one output [1,N,5+C]"
    rows, columns = _shape(output)[1:]
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


def _end_to_end(seen: Seen) -> Recognised | str:
    output = seen.only_output
    if output is None or not _is_rows(output) or _shape(output)[2] != 6:
        return "not one output [1,K,6]"
    if seen.asked is None and "TopK" not in {n.get_type_name() for n in ancestors(output)}:
        return "no TopK operation chooses its rows"
    wanted(seen.facts, "normalized")
    classes = len(seen.facts.labels.names) if seen.facts.labels is not None else 0
    return Recognised(
        EndToEnd(normalized=bool(seen.facts.normalized)),
        (output,),
        classes,
        f"[1,{_shape(output)[1]},6]: rows chosen by TopK, no NMS needed",
        Facts(),
    )


def _classification(seen: Seen) -> Recognised | str:
    output = seen.only_output
    shape = _shape(output) if output is not None else ()
    if output is None or len(shape) not in {2, 4} or set(shape[2:]) - {1} or shape[0] != 1 or shape[1] < 2:
        return "not one output [1,C]"
    last = skip(output).get_node().get_type_name()
    background = seen.facts.background
    if background is None:
        background = shape[1] == 1001
    activated = last in {"Softmax", "Sigmoid"}
    return Recognised(
        Classification(activation="none" if activated else "softmax", background=background),
        (output if len(shape) == 2 else _flat(output),),
        shape[1] - background,
        f"one output [1,{shape[1]}] of {'probabilities from ' + last if activated else 'logits'}"
        + (", of which 0 is background, as 1001 classes are ImageNet's and one more" if background else ""),
        known("as ImageNet classifiers are evaluated: short side 1/0.875 of the crop", resize="crop"),
    )


def _flat(output: ov.Output) -> ov.Output:
    """[1, C, 1, 1] as [1, C]."""
    return ops.reshape(output, np.array([1, output.shape[1]]), special_zero=False).output(0)


KINDS: dict[str, Callable[[Seen], Recognised | str]] = {
    "detection_output": _detection_output,
    "ssd": lambda seen: raw_heads(seen.model),
    "yolox": _yolox,
    "yolo_v8_raw": _yolo_v8_raw,
    "yolo_v8": _yolo_v8,
    "yolo_v5": _yolo_v5,
    "end_to_end": _end_to_end,
    "yolo_anchor": lambda seen: anchor_grids(seen.model, seen.facts),
    "classification": _classification,
}
"""By kind; tried in this order."""
