"""The heads that qzd decodes, as `[head]` of bundle.toml describes them.

Tensors are named by their place: the order of the model's results is the order in which each head's
docstring lists them. N is the number of candidates, C the number of classes. Boxes are in input pixels
unless a head says otherwise.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

__all__ = [
    "MOST",
    "BoxesScores",
    "Classification",
    "DetectionOutput",
    "Detr",
    "Dfl",
    "Distances",
    "EndToEnd",
    "Head",
    "Positive",
    "Side",
    "Ssd",
    "Task",
    "YoloAnchor",
    "YoloV5",
    "YoloV8",
    "YoloV8Raw",
    "Yolox",
    "head_problems",
]

SOUND = "between 1e-6 and 1e6"
MOST = 2**31 - 1  # what the kernels count with

Side = Annotated[int, Meta(ge=1, le=16384)]
Positive = Annotated[int, Meta(ge=1, le=MOST)]
Task = Literal["detection", "classification"]
Layout = Literal["channels_first", "channels_last"]
Activation = Literal["sigmoid", "softmax", "none"]
Column = Literal["x0", "y0", "x1", "y1", "xc", "yc", "w", "h", "score", "class", "-"]

CORNERS, CENTER = ("x0", "y0", "x1", "y1"), ("xc", "yc", "w", "h")


class _Head(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    task: ClassVar[Task] = "detection"


class DetectionOutput(_Head, frozen=True, tag="detection_output"):
    """Tensor `[1, 1, N, 7]`: image id, label, score, x0 y0 x1 y1 in 0..1; ends at image id < 0.

    The graph has applied its NMS. Source: the DetectionOutput operation of OpenVINO's opset.
    """

    first_label: Annotated[int, Meta(ge=-MOST, le=MOST)] = 0
    """The label value that stands for `labels.names[0]`."""


class EndToEnd(_Head, frozen=True, tag="end_to_end"):
    """Tensor `[1, N, K]`, `[1, 1, N, K]` or `[N, K]`: final boxes, one per row; no NMS is needed.

    For YOLOv10, YOLO26, RT-DETR of Ultralytics, and exports with their NMS in the graph. Rows that are
    padding have a score below the threshold.
    """

    columns: tuple[Column, ...] = ("x0", "y0", "x1", "y1", "score", "class")
    """What each column holds; `-` is not read. Boxes are corners or centre and size."""
    normalized: bool = False
    """Boxes in 0..1 of the input instead of input pixels."""
    first_label: Annotated[int, Meta(ge=-MOST, le=MOST)] = 0
    """The class value that stands for `labels.names[0]`."""


class Ssd(_Head, frozen=True, tag="ssd"):
    """Tensors: box codes `[1, N, 4 or more]` and class scores `[1, N, C + background]`.

    The priors (yc xc h w in 0..1) are the bundle's file `priors.npy`, `(N, 4)` float32. Sources: the
    FasterRcnnBoxCoder of the TensorFlow Object Detection API; RetinaFace (Deng et al., 2019), whose codes
    begin with x; BlazeFace (Bazarevsky et al., 2019), whose sizes are linear.
    """

    scales: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    """Divisors of ty tx th tw: the reciprocals of the variances."""
    order: Literal["yxhw", "xywh"] = "yxhw"
    """Which code comes first; columns after the fourth are not read."""
    sizes: Literal["exp", "linear"] = "exp"
    """A box's side is the prior's side times exp(code), or times the code itself."""
    activation: Activation = "sigmoid"
    """What is still to be applied to the class scores; `none` if the graph has done it."""
    background: bool = True
    """Whether class 0 of the scores tensor is background, and not among the names."""


class YoloAnchor(_Head, frozen=True, tag="yolo_anchor"):
    """One raw grid per scale, nothing activated.

    A channel group is tx ty tw th, objectness, C classes. Sources: YOLOv3 (Redmon and Farhadi, 2018) and
    YOLOv4 (Bochkovskiy et al., 2020), `[yolo]` sections of Darknet; for `v5`, YOLOv5 (Jocher, 2020), which
    YOLOv7 (Wang et al., 2022) and Scaled-YOLOv4 share.
    """

    anchors: tuple[tuple[float, float], ...]
    """Width and height of every anchor, in input pixels."""
    masks: tuple[tuple[int, ...], ...]
    """For each tensor, the indices of its anchors."""
    scale_xy: tuple[float, ...] = ()
    """For each tensor, Darknet's `scale_x_y`; empty means 1 for all."""
    layout: Literal["nchw", "nhwc", "nahwc"] = "nchw"
    """`[1, A * (5 + C), h, w]`, `[1, h, w, A * (5 + C)]` or `[1, A, h, w, 5 + C]`."""
    decode: Literal["darknet", "v5"] = "darknet"
    """darknet: sigmoid(t) * scale_xy - (scale_xy - 1) / 2 and exp(t) * anchor.
    v5: 2 * sigmoid(t) - 0.5 and (2 * sigmoid(t)) ** 2 * anchor."""


class YoloV5(_Head, frozen=True, tag="yolo_v5"):
    """Tensor `[1, N, 5 + C]`: xc yc w h, objectness, classes, all decoded and activated."""

    normalized: bool = False
    """Boxes in 0..1 of the input instead of input pixels."""


class Yolox(_Head, frozen=True, tag="yolox"):
    """Tensor `[1, N, 5 + C]`: grid offsets and log sizes still to decode; scores activated.

    Sources: YOLOX (Ge et al., 2021), exported with `decode_in_inference=False`; YuNet (Wu et al., 2023),
    whose score is the geometric mean.
    """

    strides: tuple[Side, ...] = (8, 16, 32)
    score: Literal["product", "geometric_mean"] = "product"
    """How objectness and class make the score."""


class YoloV8(_Head, frozen=True, tag="yolo_v8"):
    """Tensor `[1, 4 + C, N]` or its transpose: xc yc w h and activated classes, no objectness."""

    layout: Layout = "channels_first"
    normalized: bool = False
    """Boxes in 0..1 of the input instead of input pixels."""


class YoloV8Raw(_Head, frozen=True, tag="yolo_v8_raw"):
    """The same cut before DFL: a distribution over `bins` for each box side, and class logits.

    Sides in the order left, top, right, bottom, in units of the stride, from cell centres. Source:
    Generalized Focal Loss (Li et al., 2020), as in YOLOv8.
    """

    strides: tuple[Side, ...] = (8, 16, 32)
    bins: Annotated[int, Meta(ge=2, le=64)] = 16
    tensors: Literal["joined", "split", "scales"] = "joined"
    """joined: one `[1, 4 * bins + C, N]`. split: `[1, 4 * bins, N]`, then `[1, C, N]`.
    scales: one `[1, 4 * bins + C, h, w]` per stride."""


class _Cells(_Head, frozen=True):
    """A box per cell of some grids, measured from the cell to its four sides."""

    strides: tuple[Side, ...] = (8, 16, 32)
    offset: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.5
    """Where in its cell a box is measured from, in strides: 0.5 is the centre."""
    tensors: Literal["classes_boxes", "boxes_classes", "split"] = "split"
    """One `[1, N, C + sides]` or `[1, N, sides + C]`, or two: `[1, N, sides]`, then `[1, N, C]`."""
    activation: Literal["sigmoid", "none"] = "none"
    """What is still to be applied to the classes."""


class Dfl(_Cells, frozen=True, tag="dfl"):
    """Rows of distributions: `bins` logits per side, left top right bottom, in strides; and classes.

    Source: Generalized Focal Loss (Li et al., 2020), as in NanoDet (offset 0.5), NanoDet-Plus (offset 0)
    and PicoDet (Yu et al., 2021).
    """

    bins: Annotated[int, Meta(ge=2, le=64)] = 8


class Distances(_Cells, frozen=True, tag="distances"):
    """Rows of distances: left top right bottom from the cell to the box's sides; and classes.

    Sources: FCOS (Tian et al., 2019) and RTMDet (Lyu et al., 2022), offset 0; SCRFD (Guo et al., 2021),
    whose cells hold two boxes each.
    """

    unit: Literal["strides", "pixels"] = "strides"
    boxes_per_cell: Annotated[int, Meta(ge=1, le=64)] = 1


class BoxesScores(_Head, frozen=True, tag="boxes_scores"):
    """Tensors: boxes `[1, N, 4]`, decoded, and class scores `[1, N, C + background]`; NMS is still to do.

    For YOLO-NAS, UltraFace, PP-YOLOE and PicoDet cut before their NMS.
    """

    boxes: Literal["corners", "center"] = "corners"
    """x0 y0 x1 y1, or xc yc w h."""
    normalized: bool = False
    """Boxes in 0..1 of the input instead of input pixels."""
    boxes_layout: Layout = "channels_last"
    """channels_first: `[1, 4, N]`."""
    scores_layout: Layout = "channels_last"
    """channels_first: `[1, C + background, N]`; not with softmax."""
    activation: Activation = "none"
    """What is still to be applied to the class scores."""
    background: bool = False
    """Whether class 0 of the scores tensor is background, and not among the names."""


class Detr(_Head, frozen=True, tag="detr"):
    """Tensors: class logits `[1, Q, C + no_object]` and boxes `[1, Q, 4]`, xc yc w h in 0..1; no NMS.

    Sources: DETR (Carion et al., 2020), softmax with a last class for no object; RT-DETR (Zhao et al.,
    2023), D-FINE, DEIM and RF-DETR, sigmoid, in which each class of a query is a candidate of its own.
    """

    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    no_object: bool = False
    """Whether the last logit stands for no object; it takes part in the softmax."""


class Classification(_Head, frozen=True, tag="classification"):
    """Tensor `[1, C + background]`."""

    task: ClassVar[Task] = "classification"

    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    """What is still to be applied; `none` if the tensor holds probabilities."""
    background: bool = False
    """Whether class 0 of the tensor is background, and not among the names."""
    top_k: Positive = 5


Head = (
    DetectionOutput
    | EndToEnd
    | Ssd
    | YoloAnchor
    | YoloV5
    | Yolox
    | YoloV8
    | YoloV8Raw
    | Dfl
    | Distances
    | BoxesScores
    | Detr
    | Classification
)


def head_problems(head: Head) -> list[str]:
    """Say what a type cannot, in sentences; empty if the head is sound."""
    match head:
        case YoloAnchor():
            return _anchor_problems(head)
        case EndToEnd():
            return _column_problems(head)
        case Yolox() | YoloV8Raw() | Dfl() | Distances() if not head.strides:
            return ["head.strides is empty: a model has at least one scale"]
        case Ssd() if not all(map(_is_sound, head.scales)):
            return [f"head.scales {head.scales} must be {SOUND}"]
        case BoxesScores(activation="softmax", scores_layout="channels_first"):
            return ["head.activation softmax needs head.scores_layout channels_last"]
        case _:
            return []


def _is_sound(factor: float) -> bool:
    """Not NaN either: with any other factor no box would be finite."""
    return 1e-6 <= factor <= 1e6


def _anchor_problems(head: YoloAnchor) -> list[str]:
    used = [i for mask in head.masks for i in mask]
    if not used or not all(head.masks) or min(used) < 0 or max(used) >= len(head.anchors):
        return [f"head.masks {head.masks} must index the {len(head.anchors)} anchors"]
    if not all(_is_sound(side) for anchor in head.anchors for side in anchor):
        return [f"head.anchors must be {SOUND}"]
    if not all(map(_is_sound, head.scale_xy)):
        return [f"head.scale_xy {head.scale_xy} must be {SOUND}"]
    if head.scale_xy and len(head.scale_xy) != len(head.masks):
        return [f"head: {len(head.masks)} masks but {len(head.scale_xy)} values of scale_xy"]
    if head.scale_xy and head.decode == "v5":
        return ["head.scale_xy says nothing about head.decode v5"]
    return []


def _column_problems(head: EndToEnd) -> list[str]:
    used = sorted(column for column in head.columns if column != "-")
    if used in (sorted([*CORNERS, "score", "class"]), sorted([*CENTER, "score", "class"])):
        return []
    return [f"head.columns {head.columns} must name score, class and x0 y0 x1 y1 or xc yc w h once each"]
