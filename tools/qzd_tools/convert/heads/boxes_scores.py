"""Decoded boxes and class scores in two tensors, raw logits with boxes of queries, and faces about priors."""

from __future__ import annotations

import numpy as np
import openvino as ov

from qzd_ext.detections import FloatArray
from qzd_ext.manifest import BoxesScores, Detr, Ssd
from qzd_tools.convert.facts import Facts, Recognised, known
from qzd_tools.convert.heads.ssd import Activation, is_raw
from qzd_tools.convert.heads.subject import Subject, shape_of
from qzd_tools.convert.heads.trial import box_form, is_normalized, is_scores, run_trial
from qzd_tools.graph.walk import ancestors, producers, skip

__all__ = ["boxes_scores", "detr", "ssd_faces"]

QUERIES = 1000
"""At most as many has a DETR; grids have more cells."""
DETR_FAMILY = known("as DETRs are exported at one size", color="rgb", resize="stretch")
RETINA_FAMILY = known(
    "as RetinaFace's published training has it",
    color="bgr", mean=(104.0, 117.0, 123.0), scale=(1.0,), resize="letterbox", anchor="corner", pad=0,
)  # fmt: skip
BLAZE_FAMILY = known(
    "as MediaPipe feeds BlazeFace",
    color="rgb", mean=(127.5,), scale=(127.5,), resize="letterbox", anchor="center", pad=0,
)  # fmt: skip


def _pair(subject: Subject) -> tuple[ov.Output, ov.Output] | None:
    """Boxes [1,N,4] or [1,4,N], and the other tensor with N in it; names decide if both have 4."""
    outputs = [o for o in subject.outputs if len(shape_of(o)) == 3 and shape_of(o)[0] == 1]
    boxes = [o for o in outputs if 4 in shape_of(o)[1:]]
    if len(outputs) != 2 or not boxes:
        return None
    if len(boxes) == 2:
        boxes = [o for o in boxes if {"boxes", "dets", "bboxes", "pred_boxes"} & _names(o)] or boxes
    (other,) = [o for o in outputs if o is not boxes[0]]
    n = max(shape_of(boxes[0])[1:])
    return (boxes[0], other) if len(boxes) == 1 and n in shape_of(other)[1:] else None


def _names(output: ov.Output) -> set[str]:
    return {name.lower() for name in output.get_names()}


def detr(subject: Subject) -> Recognised | str:
    """Class logits and boxes of queries, xc yc w h in 0..1."""
    pair = _pair(subject) or _joined_queries(subject)
    if pair is None:
        return "not boxes [1,Q,4] and logits [1,Q,C]"
    boxes, logits = pair
    q = shape_of(boxes)[1]
    if q > QUERIES or shape_of(boxes)[2] != 4 or shape_of(logits)[1] != q:
        return f"more than {QUERIES} boxes, or not in rows"
    values, scores = run_trial(subject, pair)
    if box_form(values) is None or not is_scores(values):
        return "its boxes are not xc yc w h in 0..1"
    if is_scores(scores):
        return "its scores are activated already"
    two_stage = "TopK" in {n.get_type_name() for n in ancestors(logits)}
    classes = shape_of(logits)[2] - (not two_stage)
    way = "sigmoid, as TopK chooses the queries" if two_stage else "softmax with a last class for no object"
    return Recognised(
        Detr(activation="sigmoid" if two_stage else "softmax", no_object=not two_stage),
        (logits, boxes),
        classes,
        f"{q} queries with a box in 0..1 and {classes} class logits each: {way}",
        Facts(),
        certain=DETR_FAMILY,
    )


def _joined_queries(subject: Subject) -> tuple[ov.Output, ov.Output] | None:
    """Boxes and logits of one output [1,Q,4+C] that a Concat of boxes and Sigmoid made."""
    output = subject.only_output
    if output is None or len(shape_of(output)) != 3:
        return None
    node = skip(output, frozenset({"Convert", "Identity", "Unsqueeze", "Squeeze"})).get_node()
    if node.get_type_name() != "Concat" or node.get_input_size() != 2:
        return None
    boxes, scores = (skip(v, frozenset({"Unsqueeze", "Squeeze"})) for v in node.input_values())
    if scores.get_node().get_type_name() != "Sigmoid":
        return None
    logits = scores.get_node().input_value(0)
    shapes = shape_of(boxes), shape_of(logits)
    rows = all(len(s) == 3 and s[0] == 1 for s in shapes) and shapes[0][1] == shapes[1][1]
    return (boxes, logits) if rows and shapes[0][2] == 4 else None


def boxes_scores(subject: Subject) -> Recognised | str:
    """Decoded boxes and class scores that still need their NMS."""
    pair = _pair(subject)
    if pair is None:
        return "not boxes [1,N,4] and scores [1,N,C]"
    boxes, scores = pair
    by_rows, n = shape_of(boxes)[2] == 4, max(shape_of(boxes)[1:])
    score_rows = shape_of(scores)[1] == n
    values, found = run_trial(subject, pair)
    values = values if by_rows else np.moveaxis(values, 1, 2)
    found = found if score_rows else np.moveaxis(found, 1, 2)
    form = box_form(values)
    if form is None or is_raw(boxes):
        return "its boxes are not decoded in the graph"
    activation = _activation(scores, found)
    summed = is_scores(found) and np.allclose(found.sum(-1), 1, atol=1e-2) and found.shape[-1] > 1
    background = subject.facts.background if subject.facts.background is not None else bool(summed)
    normalized = subject.facts.normalized if subject.facts.normalized is not None else is_normalized(values)
    classes = found.shape[-1] - background
    return Recognised(
        BoxesScores(
            boxes=form, normalized=normalized, activation=activation, background=background,
            boxes_layout="channels_last" if by_rows else "channels_first",
            scores_layout="channels_last" if score_rows else "channels_first",
        ),
        (boxes, scores),
        classes,
        f"{n} boxes, {form}, in {'0..1' if normalized else 'input pixels'}, with {classes} scores each, "
        f"{activation} still to be applied{', and a background' * background}, as tried on made-up pictures",
        Facts(),
    )  # fmt: skip


def _activation(scores: ov.Output, values: FloatArray) -> Activation:
    return "none" if is_scores(values) or not is_raw(scores) else "sigmoid"


def ssd_faces(subject: Subject) -> Recognised | str:
    """RetinaFace's and BlazeFace's codes, whose priors follow from the size of the picture."""
    by_width = {shape_of(o)[-1]: o for o in subject.outputs if len(shape_of(o)) == 3}
    size = (subject.width, subject.height)
    if {4, 2, 10} <= by_width.keys() and is_raw(by_width[4]) and _is_softmax(by_width[2]):
        priors = _retina_priors(subject)
        if shape_of(by_width[4])[1] != len(priors):
            return f"{shape_of(by_width[4])[1]} codes are not RetinaFace's at {size[0]}x{size[1]}"
        return Recognised(
            Ssd(order="xywh", activation="none"), (by_width[4], by_width[2]), 1,
            f"{len(priors)} box codes, face scores from Softmax and landmarks, as from RetinaFace; "
            "landmarks are left out", RETINA_FAMILY.over(FACE), priors,
        )  # fmt: skip
    if {16, 1} <= by_width.keys() and size == (128, 128) and shape_of(by_width[16])[1] == 896:
        return Recognised(
            Ssd(order="xywh", sizes="linear", scales=(128.0,) * 4, activation="sigmoid", background=False),
            (by_width[16], by_width[1]), 1,
            "896 codes of 16 values and face logits, as from BlazeFace; keypoints are left out",
            BLAZE_FAMILY.over(FACE), _blaze_priors(),
        )  # fmt: skip
    return "not codes, scores and landmarks of faces"


def _is_softmax(output: ov.Output) -> bool:
    return {p.get_node().get_type_name() for p in producers(output)} == {"Softmax"}


def _retina_priors(subject: Subject) -> FloatArray:
    """Two squares per cell of the strides 8, 16 and 32. Source: RetinaFace (Deng et al., 2019)."""
    found = []
    for stride, sides in ((8, (16, 32)), (16, (64, 128)), (32, (256, 512))):
        for x, y in subject.cell_centres([stride]):
            found += [
                (y / subject.height, x / subject.width, side / subject.height, side / subject.width)
                for side in sides
            ]
    return np.array(found, np.float32)


def _blaze_priors() -> FloatArray:
    """Two points per cell of stride 8 and six per cell of stride 16. Source: MediaPipe's SSD anchors."""
    found = []
    for cells, boxes in ((16, 2), (8, 6)):
        for row in range(cells):
            for column in range(cells):
                found += [((row + 0.5) / cells, (column + 0.5) / cells, 1.0, 1.0)] * boxes
    return np.array(found, np.float32)


def _face() -> Facts:
    from qzd_tools.convert.labels import from_names

    return known("one class of faces", labels=from_names(["face"]))


FACE = _face()
