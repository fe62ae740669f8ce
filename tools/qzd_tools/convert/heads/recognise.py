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
from qzd_ext.manifest import Classification, DetectionOutput, EndToEnd
from qzd_tools.convert.facts import Facts, Recognised, known, wanted
from qzd_tools.convert.heads import yolo
from qzd_tools.convert.heads.ssd_tensorflow import raw_heads
from qzd_tools.convert.heads.subject import Seen, is_rows, shape_of
from qzd_tools.convert.heads.yolo_anchor import anchor_grids
from qzd_tools.graph.walk import ancestors, describe, producers, skip

__all__ = ["KINDS", "recognise"]


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
        f"{f'the head is not {seen.asked}' if seen.asked else 'the head is not known'}; "
        f"{describe(seen.model)}; the last operations are {last}",
        wanted="\n    ".join(["a head that qzd decodes, but it is not", *reasons.values()]),
        fix="leave --head out, or name another" if seen.asked
        else "name the nearest with --head, or export the model without its post-processing",
    )


def _detection_output(seen: Seen) -> Recognised | str:
    output = seen.only_output
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
    first = seen.facts.first_label
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


def _end_to_end(seen: Seen) -> Recognised | str:
    output = seen.only_output
    if output is None or not is_rows(output) or shape_of(output)[2] != 6:
        return "not one output [1,K,6]"
    if seen.asked is None and "TopK" not in {n.get_type_name() for n in ancestors(output)}:
        return "no TopK operation chooses its rows"
    if seen.asked is None and "Sigmoid" in {p.get_node().get_type_name() for p in producers(output)}:
        return "its scores come straight from Sigmoid, not from a choice of rows"
    wanted(seen.facts, "normalized")
    classes = len(seen.facts.labels.names) if seen.facts.labels is not None else 0
    return Recognised(
        EndToEnd(normalized=bool(seen.facts.normalized)),
        (output,),
        classes,
        f"[1,{shape_of(output)[1]},6]: rows chosen by TopK, no NMS needed",
        Facts(),
    )


def _classification(seen: Seen) -> Recognised | str:
    output = seen.only_output
    shape = shape_of(output) if output is not None else ()
    if output is None or len(shape) not in {2, 4} or set(shape[2:]) - {1} or shape[0] != 1 or shape[1] < 2:
        return "not one output [1,C]"
    last = skip(output).get_node().get_type_name()
    why, background = "as asked for", seen.facts.background
    if background is None:
        why, background = "as 1001 classes are ImageNet's and one more", shape[1] == 1001
    activated = last in {"Softmax", "Sigmoid"}
    missing: Literal["sigmoid", "softmax"] = "sigmoid" if seen.facts.multilabel else "softmax"
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


KINDS: dict[str, Callable[[Seen], Recognised | str]] = {
    "detection_output": _detection_output,
    "ssd": lambda seen: raw_heads(seen.model),
    "yolox": yolo.yolox,
    "yolo_v8_raw": yolo.yolo_v8_raw,
    "yolo_v8": yolo.yolo_v8,
    "yolo_v5": yolo.yolo_v5,
    "end_to_end": _end_to_end,
    "yolo_anchor": lambda seen: anchor_grids(seen.model, seen.facts),
    "classification": _classification,
}
"""By kind; tried in this order."""
