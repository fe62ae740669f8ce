"""Final boxes that the graph has chosen itself: rows of one tensor, or boxes, scores and labels apart.

What the columns hold, and in which unit, is tried on made-up pictures.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from qzd_ext.detections import FloatArray
from qzd_ext.errors import UsageError
from qzd_ext.head_types import Column
from qzd_ext.manifest import EndToEnd
from qzd_tools.convert.facts import FLAGS, Facts, Recognised, known
from qzd_tools.convert.heads.subject import Subject, shape_of
from qzd_tools.convert.heads.trial import BoxForm, box_form, is_normalized, is_scores, run_trial
from qzd_tools.graph.walk import ancestors, producers

__all__ = ["end_to_end", "end_to_end_apart"]

CHOOSERS = frozenset({"TopK", "NonMaxSuppression", "NMSRotated", "MatrixNms", "MulticlassNms"})
STRETCHED = known("boxes of queries in 0..1, as of RT-DETR, which stretches its frames", resize="stretch")

Columns = tuple[Column, ...]
FORMS: dict[BoxForm, Columns] = {"corners": ("x0", "y0", "x1", "y1"), "center": ("xc", "yc", "w", "h")}


def end_to_end(subject: Subject) -> Recognised | str:
    """Rows of 6 or 7 columns that TopK or an NMS has chosen."""
    output = subject.only_output
    shape = shape_of(output) if output is not None else ()
    if output is None or len(shape) not in {2, 3, 4} or shape[-1] not in {6, 7} or set(shape[:-2]) - {1}:
        return "not one output [1,N,6] or [1,N,7]"
    if subject.asked is None:
        choosers = {n.get_type_name() for n in ancestors(output)} & CHOOSERS
        if not choosers:
            return "no TopK or NMS chooses its rows"
        if "Sigmoid" in {p.get_node().get_type_name() for p in producers(output)}:
            return "its scores come straight from Sigmoid, not from a choice of rows"
    return _recognised(subject, (output,), f"{list(shape)}: rows that the graph has chosen, no NMS needed")


def end_to_end_apart(subject: Subject) -> Recognised | str:
    """Boxes [1,N,4] with one score and one label each, in tensors of their own."""
    outputs = subject.outputs
    found = [o for o in outputs if len(shape_of(o)) == 3 and shape_of(o)[2] == 4]
    others = [o for o in outputs if all(o is not f for f in found) and len(shape_of(o)) in {2, 3}]
    if len(found) != 1 or len(others) != 2:
        return "not boxes [1,N,4], scores [1,N] and labels [1,N]"
    (boxes,) = found
    n = shape_of(boxes)[1]
    if any(int(np.prod(shape_of(o))) != n for o in others):
        return "not one score and one label for each box"
    whole = [o for o in others if not o.get_element_type().is_real()] or [
        o for o in others if _is_whole(run_trial(subject, [o])[0])
    ]
    if len(whole) != 1:
        return "it cannot be told which output holds the labels"
    (score,) = [o for o in others if o is not whole[0]]
    rows = [ops.convert(o, ov.Type.f32) for o in (boxes, score, whole[0])]
    parts = [ops.reshape(r, np.array([1, n, -1]), special_zero=False) for r in rows]
    joined = ops.concat(parts, 2).output(0)
    return _recognised(subject, (joined,), f"{n} boxes with a score and a label each, joined to rows",
                       known_order=("score", "class"))  # fmt: skip


def _is_whole(values: FloatArray) -> bool:
    return bool(np.isfinite(values).all() and (values == np.round(values)).all())


def _recognised(
    subject: Subject, outputs: tuple[ov.Output], reason: str, known_order: tuple[Column, Column] | None = None
) -> Recognised:
    values = run_trial(subject, outputs)[0]
    rows = values.reshape(-1, values.shape[-1])
    columns = subject.facts.columns or _columns(rows, known_order)
    if columns is None or len(columns) != rows.shape[1]:
        raise UsageError(
            f"what the {rows.shape[1]} columns of its rows hold does not show on made-up pictures",
            wanted="the order of the columns",
            fix=f"state it: {FLAGS['columns']}",
        )
    form = FORMS["center" if "xc" in columns else "corners"]
    boxes = rows[:, [columns.index(name) for name in form]]
    normalized = subject.facts.normalized
    if normalized is None:
        if not np.ptp(boxes):
            raise UsageError(
                "the unit of its boxes does not show on made-up pictures", fix=f"state {FLAGS['normalized']}"
            )
        normalized = is_normalized(boxes)
    labels, first = subject.facts.labels, subject.facts.first_label or 0
    unit = "0..1" if normalized else "input pixels"
    return Recognised(
        EndToEnd(columns=columns, normalized=normalized, first_label=first),
        outputs,
        len(labels.names) if labels is not None else 0,
        f"{reason}; columns {' '.join(columns)}, boxes in {unit}, as tried on made-up pictures",
        Facts(),
        certain=STRETCHED if normalized and "xc" in columns else Facts(),
    )


def _columns(rows: FloatArray, order: tuple[Column, Column] | None) -> Columns | None:
    """Tell the columns apart by their values; None if they show nothing."""
    if order is not None:
        form = box_form(rows[:, :4])
        return None if form is None else (*FORMS[form], *order)
    rows = rows[np.abs(rows).sum(1) > 0]  # others are padding
    if len(rows) < 2 or not np.isfinite(rows).all():
        return None
    constant = [k for k in range(rows.shape[1]) if rows.shape[1] == 7 and not rows[:, k].any()]
    kept = [k for k in range(rows.shape[1]) if k not in constant[:1]]
    if len(kept) != 6:
        return None
    whole = [k for k in kept if _is_whole(rows[:, k]) and (rows[:, k] >= 0).all()]
    for label in whole:
        rest = [k for k in kept if k != label]
        for score in (rest[0], rest[-1]):
            box = [k for k in rest if k != score]
            form = box_form(rows[:, box])
            if form is not None and is_scores(rows[:, score]) and _fall(rows[:, score]):
                return _named(rows.shape[1], label, score, box, FORMS[form])
    return None


def _fall(scores: FloatArray) -> bool:
    """Whether scores fall within each picture's rows, as those that TopK chose do."""
    rises = np.count_nonzero(np.diff(scores) > 0)
    return bool(np.ptp(scores) > 0 and rises <= max(2, 0.05 * len(scores)))


def _named(width: int, label: int, score: int, box: list[int], form: Columns) -> Columns:
    names: list[Column] = ["-"] * width
    names[label], names[score] = "class", "score"
    for at, name in zip(box, form, strict=True):
        names[at] = name
    return tuple(names)
