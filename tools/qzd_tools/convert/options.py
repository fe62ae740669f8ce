"""What a person may state about a model, so that it need not be inferred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qzd_ext.head_types import Column
from qzd_tools.convert import labels as label_sets
from qzd_tools.convert.facts import Facts, known

__all__ = ["ConvertOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """What a person states about a model; None leaves it to metadata and structure.

    Attributes
    ----------
    head : str, optional
        A kind of head.
    labels : str, optional
        A file, or the name of a set.
    resize, anchor, pad, short_side
        How frames are laid into the input; as in the manifest.
    color, mean, scale
        What the model was trained on: `(pixel - mean) / scale` of pixels in 0..255.
    shape : sequence of int, optional
        Height and width, or all four dimensions.
    first_label, background, normalized, anchors, masks, scale_xy, decode, columns
        Of the heads that leave it open.
    boxes_only : bool
        Take the boxes of a model for segmentation or poses, and leave out its masks or keypoints.
    confidence, iou, nms
        Thresholds of the bundle, and the overlap that its NMS measures.
    fp16 : bool
        Store weights in half precision.
    name, version : str, optional
        Of the bundle.
    golden : sequence of Path
        Pictures for golden frames.
    unproven : bool
        Write the bundle also if its graph's results differ from those of its source.
    overwrite : bool
        Replace a bundle that is at the destination.
    """

    head: str | None = None
    labels: str | None = None
    resize: Literal["stretch", "letterbox", "crop"] | None = None
    anchor: Literal["center", "corner"] | None = None
    pad: int | None = None
    short_side: int | None = None
    color: Literal["rgb", "bgr"] | None = None
    mean: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    shape: Sequence[int] | None = None
    first_label: int | None = None
    background: bool | None = None
    normalized: bool | None = None
    anchors: tuple[tuple[float, float], ...] | None = None
    masks: tuple[tuple[int, ...], ...] | None = None
    scale_xy: tuple[float, ...] | None = None
    decode: Literal["darknet", "v5"] | None = None
    columns: tuple[Column, ...] | None = None
    boxes_only: bool = False
    confidence: float | None = None
    iou: float | None = None
    nms: Literal["iou", "diou"] | None = None
    fp16: bool = False
    name: str | None = None
    version: str = "1"
    golden: Sequence[Path] = ()
    unproven: bool = False
    overwrite: bool = False

    def facts(self) -> Facts:
        """The facts among these options.

        Raises
        ------
        UsageError, DataError
            The labels cannot be read.
        """
        stated = {
            field: getattr(self, field)
            for field in Facts.__dataclass_fields__
            if field not in {"labels", "multilabel", "why"}
        }
        named = label_sets.load(self.labels) if self.labels is not None else None
        return known(f"--labels {self.labels}", labels=named).over(known("as asked for", **stated))
