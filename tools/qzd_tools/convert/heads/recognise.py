"""Which head a graph ends in, by its structure: operations and shapes, never node names.

Each recogniser takes a graph and gives the head it found, or says in a few words why it is not that one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from qzd_ext.errors import ModelError, UsageError
from qzd_ext.manifest import Classification, DetectionOutput
from qzd_tools.convert.facts import Recognised, known
from qzd_tools.convert.heads import yolo
from qzd_tools.convert.heads.boxes_scores import boxes_scores, detr, ssd_faces
from qzd_tools.convert.heads.end_to_end import end_to_end, end_to_end_apart
from qzd_tools.convert.heads.levels import joined_cells, levels
from qzd_tools.convert.heads.ssd_tensorflow import raw_heads
from qzd_tools.convert.heads.subject import Subject, shape_of
from qzd_tools.convert.heads.yolo_anchor import anchor_grids
from qzd_tools.graph.walk import describe, skip

__all__ = ["KINDS", "recognise"]


def recognise(subject: Subject) -> Recognised:
    """Find the head of a graph.

    Raises
    ------
    ModelError
        The graph ends in none of the heads; the message says why not in each.
    UsageError
        The head that was asked for is not one.
    """
    if subject.asked is not None and subject.asked not in KINDS:
        raise UsageError(
            f"there is no head {subject.asked}", wanted=f"one of {', '.join(KINDS)}", fix="correct --head"
        )
    tries = [(kind, subject) for kind in ([subject.asked] if subject.asked else KINDS)]
    if subject.facts.head in KINDS:  # metadata may name a head that its structure does not show
        tries.append((subject.facts.head, dataclasses.replace(subject, asked=subject.facts.head)))
    reasons = {}
    for kind, view in tries:
        found = KINDS[kind](view)
        if isinstance(found, Recognised):
            return found
        reasons[kind] = f"{kind}: {found}"
    last = ", ".join(r.input_value(0).get_node().get_type_name() for r in subject.model.get_results())
    raise ModelError(
        f"{f'the head is not {subject.asked}' if subject.asked else 'the head is not known'}; "
        f"{describe(subject.model)}; the last operations are {last}",
        wanted="\n    ".join(["a head that qzd decodes, but it is not", *reasons.values()]),
        fix="leave --head out, or name another" if subject.asked
        else "name the nearest with --head, or export the model without its post-processing",
    )


def first_of(subject: Subject, *recognisers: Callable[[Subject], Recognised | str]) -> Recognised | str:
    """Return the first head that is found, or why it is none of them."""
    reasons = []
    for recogniser in recognisers:
        found = recogniser(subject)
        if isinstance(found, Recognised):
            return found
        reasons.append(found)
    return "; ".join(reasons)


def _detection_output(subject: Subject) -> Recognised | str:
    output = subject.only_output
    if output is None or len(shape_of(output)) != 4 or shape_of(output)[3] != 7:
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
    first = subject.facts.first_label
    if first is None:
        first = 1 if background == 0 and not attributes["decrease_label_id"] else 0
    return Recognised(
        DetectionOutput(first_label=first),
        (output,),
        channels - has_background,
        f"the graph ends in DetectionOutput over {channels} classes"
        + (f", of which {background} is background" if has_background else ""),
        known("as SSD detectors are trained", resize="stretch"),
    )


def _classification(subject: Subject) -> Recognised | str:
    output = subject.only_output
    shape = shape_of(output) if output is not None else ()
    if output is None or len(shape) not in {2, 4} or set(shape[2:]) - {1} or shape[0] != 1 or shape[1] < 2:
        return "not one output [1,C]"
    last = skip(output).get_node().get_type_name()
    why, background = "as asked for", subject.facts.background
    if background is None:
        why, background = "as 1001 classes are ImageNet's and one more", shape[1] == 1001
    activated = last in {"Softmax", "Sigmoid"}
    missing: Literal["sigmoid", "softmax"] = "sigmoid" if subject.facts.multilabel else "softmax"
    given = f"probabilities from {last}" if activated else f"logits, {missing} still to be applied"
    return Recognised(
        Classification(activation="none" if activated else missing, background=background),
        (output if len(shape) == 2 else _flat(output),),
        shape[1] - background,
        f"one output [1,{shape[1]}] of {given}"
        + (f", of which 0 is background, {why}" if background else ""),
        known("as ImageNet classifiers are evaluated: short side 1/0.875 of the crop", resize="crop"),
    )


def _flat(output: ov.Output) -> ov.Output:
    """[1, C, 1, 1] as [1, C]."""
    return ops.reshape(output, np.array([1, output.shape[1]]), special_zero=False).output(0)


KINDS: dict[str, Callable[[Subject], Recognised | str]] = {
    "detection_output": _detection_output,
    "ssd": lambda subject: first_of(subject, lambda s: raw_heads(s.model), ssd_faces),
    "detr": detr,
    "end_to_end": lambda subject: first_of(subject, end_to_end, end_to_end_apart),
    "dfl": joined_cells,
    "distances": levels,
    "yolox": yolo.yolox,
    "yolo_v8_raw": yolo.yolo_v8_raw,
    "yolo_v8": yolo.yolo_v8,
    "yolo_v5": yolo.yolo_v5,
    "yolo_anchor": lambda subject: anchor_grids(subject.model, subject.facts),
    "boxes_scores": boxes_scores,
    "classification": _classification,
}
"""By kind; tried in this order."""
