"""What is known of a model, and where each thing is known from.

Flags, metadata and the recognised structure each give some facts; the first that knows one wins, and the
reason travels with it, so that nothing is inferred in silence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import openvino as ov

from qzd_ext.detections import FloatArray
from qzd_ext.errors import UsageError
from qzd_ext.head_types import Column
from qzd_ext.manifest import Head, Labels

__all__ = ["FLAGS", "Facts", "Recognised", "known", "wanted"]

FLAGS = {
    "head": "--head KIND",
    "color": "--color rgb or --color bgr",
    "mean": "--mean, such as 0 or 123.675,116.28,103.53, in units of 0..255",
    "scale": "--scale, the divisor, such as 1, 255 or 58.395,57.12,57.375",
    "resize": "--resize stretch, letterbox or crop",
    "normalized": "--normalized or --pixels",
    "columns": "--columns, such as x0,y0,x1,y1,score,class or class,score,xc,yc,w,h",
    "decode": "--decode darknet, or --decode v5 for YOLOv5, v7 and Scaled-YOLOv4",
    "labels": "--labels FILE, coco80, coco91, voc or imagenet",
}
"""How a person states a fact that could not be inferred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything about a model that its graph's arithmetic does not say; None where it is not known.

    Attributes
    ----------
    head : str or None
        A kind, as the manifest names them.
    color : "rgb" or "bgr" or None
        The channel order that the model was trained on.
    mean, scale : tuple of float or None
        What the graph still needs: `(pixel - mean) / scale`, pixels in 0..255, one value or one a
        channel in the order of `color`.
    resize, anchor, pad, short_side
        As in the manifest's `[input]`.
    labels : Labels or None
    first_label : int or None
        For the head `detection_output`.
    background : bool or None
        Whether class 0 of the scores is background, for `ssd` and `classification`.
    multilabel : bool or None
        Whether a picture may be of several classes: logits then want a sigmoid, not a softmax.
    normalized : bool or None
        Whether decoded boxes are in 0..1 instead of input pixels.
    anchors, masks, scale_xy, decode
        Of the head `yolo_anchor`, as in the manifest.
    columns : tuple of str or None
        Of the head `end_to_end`, as in the manifest.
    confidence, iou : float or None
        The thresholds that the model was exported with.
    nms : "iou" or "diou" or None
        The overlap that its NMS measures.
    why : mapping of str to str
        For each fact that is known, where it comes from.
    """

    head: str | None = None
    color: Literal["rgb", "bgr"] | None = None
    mean: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    resize: Literal["stretch", "letterbox", "crop"] | None = None
    anchor: Literal["center", "corner"] | None = None
    pad: int | None = None
    short_side: int | None = None
    labels: Labels | None = None
    first_label: int | None = None
    background: bool | None = None
    multilabel: bool | None = None
    normalized: bool | None = None
    anchors: tuple[tuple[float, float], ...] | None = None
    masks: tuple[tuple[int, ...], ...] | None = None
    scale_xy: tuple[float, ...] | None = None
    decode: Literal["darknet", "v5"] | None = None
    columns: tuple[Column, ...] | None = None
    confidence: float | None = None
    iou: float | None = None
    nms: Literal["iou", "diou"] | None = None
    why: Mapping[str, str] = field(default_factory=dict)

    def over(self, other: Facts) -> Facts:
        """These facts, and for what they do not know, the other's."""
        mine = {name: getattr(self, name) for name in self.why}
        return dataclasses.replace(other, **mine, why={**other.why, **self.why})


@dataclass(frozen=True, slots=True, eq=False)
class Recognised:
    """A head that was found in a graph.

    Attributes
    ----------
    head : Head
        As the manifest has it.
    outputs : tuple of ov.Output
        The tensors to cut at, in the order that the head's docstring gives; empty where the model's
        results are just these.
    classes : int
        Classes with names, background not counted.
    reason : str
        What it was recognised by.
    family : Facts
        What is known of all models of this kind.
    priors : (N, 4) float32 or None
        yc xc h w in 0..1, for the head `ssd`.
    certain : Facts
        What the head shows for sure; it goes before what metadata says.
    """

    head: Head
    outputs: tuple[ov.Output, ...]
    classes: int
    reason: str
    family: Facts
    priors: FloatArray | None = None
    certain: Facts = field(default_factory=lambda: Facts())


def known(reason: str, **facts: Any) -> Facts:
    """Facts that share a reason; those that are None are left out."""
    given = {name: value for name, value in facts.items() if value is not None}
    return Facts(**given, why=dict.fromkeys(given, reason))


def wanted(facts: Facts, *names: str) -> None:
    """Insist that these facts are known.

    Raises
    ------
    UsageError
        Names the flags that state the missing ones.
    """
    missing = [name for name in names if getattr(facts, name) is None]
    if missing:
        raise UsageError(
            f"the model does not say its {' or its '.join(missing)}, and its structure does not either",
            wanted="everything that decides what the model sees, as it was trained",
            fix="state " + "; ".join(FLAGS[name] for name in missing),
        )
