"""The raw anchor grids of YOLOv3 and YOLOv4 in graphs that are not Darknet's own.

A RegionYolo operation, as Model Optimizer writes it, says everything; bare grids say only their shapes, and
the anchors are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import openvino as ov

from qzd_ext.errors import UsageError
from qzd_ext.manifest import YoloAnchor
from qzd_tools.convert.facts import FLAGS, Facts, Recognised, known
from qzd_tools.convert.heads.ssd import is_raw
from qzd_tools.graph.walk import skip

__all__ = ["anchor_grids"]

V5_FAMILY = known(
    "as YOLOv5 and v7 are trained",
    color="rgb", mean=(0.0,), scale=(255.0,), resize="letterbox", anchor="center", pad=114,
)  # fmt: skip
FAMILY = known(
    "as Darknet feeds its networks", color="rgb", mean=(0.0,), scale=(255.0,), resize="stretch"
)
Layout = Literal["nchw", "nhwc", "nahwc"]
LAYOUTS: tuple[tuple[Layout, int, int], ...] = (("nchw", 1, 2), ("nhwc", 3, 1))
"""Layouts, with the dimensions of the channels and of the height."""
MOVES = frozenset({"Convert", "Identity", "Reshape"})


def anchor_grids(model: ov.Model, facts: Facts) -> Recognised | str:
    """The head `yolo_anchor`, or why there is none.

    Raises
    ------
    UsageError
        The graph ends in such grids, but does not say their anchors.
    """
    regions = [skip(r.input_value(0), MOVES).get_node() for r in model.get_results()]
    if all(node.get_type_name() == "RegionYolo" for node in regions):
        return _from_regions(regions, facts)
    grids = [r.input_value(0) for r in model.get_results()]
    if not all(g.partial_shape.is_static and len(g.shape) in {4, 5} and is_raw(g) for g in grids):
        return "its outputs are not all raw grids of four or five dimensions"
    if all(len(g.shape) == 5 for g in grids):
        each = {(g.shape[0], g.shape[1], g.shape[4]) for g in grids}
        return _from_facts(grids, "nahwc", facts) if len(each) == 1 else "its grids have different anchors"
    if any(len(g.shape) == 5 for g in grids):
        return "its grids do not all have the same dimensions"
    for layout, channel, side in LAYOUTS:
        sizes = {g.shape[side] for g in grids}
        if len({g.shape[channel] for g in grids}) == 1 and len(sizes) == len(grids):
            return _from_facts(grids, layout, facts)
    return "its grids are not one a scale with the same channels"


def _from_regions(regions: Sequence[ov.Node], facts: Facts) -> Recognised | str:
    attributes = [node.get_attributes() for node in regions]
    first = attributes[0]
    mixed = any(a["classes"] != first["classes"] for a in attributes)
    if first["do_softmax"] or first["coords"] != 4 or mixed:
        return "its RegionYolo operations are those of YOLOv2"
    anchors: list[tuple[float, float]] = []
    masks = []
    for a in attributes:
        own = list(zip(a["anchors"][::2], a["anchors"][1::2], strict=True))
        if own != anchors[-len(own) :]:  # as a rule, all list the same
            anchors += own
        masks.append(tuple(i + len(anchors) - len(own) for i in a["mask"]))
    return Recognised(
        YoloAnchor(
            anchors=tuple(anchors),
            masks=tuple(masks),
            scale_xy=facts.scale_xy or (),
        ),
        tuple(node.input_value(0) for node in regions),
        first["classes"],
        f"{len(regions)} RegionYolo operations, cut off",
        FAMILY,
    )


def _from_facts(grids: Sequence[ov.Output], layout: Layout, facts: Facts) -> Recognised:
    """Anchors and decoding as stated; grids of five dimensions are YOLOv5's own.

    Raises
    ------
    UsageError
        They are not stated, or do not fit the grids.
    """
    sizes = [g.shape[-3 if layout != "nchw" else -2] for g in grids]
    cells = ", ".join(map(str, sizes))
    if facts.anchors is None:
        raise UsageError(
            f"the graph ends in raw anchor grids of {cells} cells, without their anchors",
            wanted="the width and height of each anchor in input pixels, as in the network's cfg",
            fix="state them: --anchors 12,16,19,36,40,28,... (and --masks 0,1,2/3,4,5/6,7,8, an output each)",
        )
    masks = facts.masks or _usual_masks(sizes, len(facts.anchors))
    decode = facts.decode or ("v5" if layout == "nahwc" else None)
    if decode is None:
        raise UsageError(
            f"the graph ends in raw anchor grids of {cells} cells; Darknet and YOLOv5 decode them apart",
            wanted="how boxes are decoded",
            fix=f"state it: {FLAGS['decode']}",
        )
    first = grids[0].shape
    channels = first[1] * first[4] if layout == "nahwc" else first[1 if layout == "nchw" else 3]
    each = {len(mask) for mask in masks}
    fitting = len(masks) == len(grids) and len(each) == 1 and 0 not in each
    fitting = fitting and (facts.masks is not None or len(facts.anchors) % len(grids) == 0)
    if not fitting or channels % min(each) or channels // min(each) < 6:
        raise UsageError(
            f"masks {masks} for {len(grids)} grids of {channels} channels",
            wanted="as many masks as outputs, each of A anchors, with A * (5 + classes) channels",
            fix="correct --anchors or --masks",
        )
    classes = channels // min(each) - 5
    head = YoloAnchor(
        anchors=facts.anchors, masks=masks, scale_xy=facts.scale_xy or (), layout=layout, decode=decode
    )
    shown = "/".join(",".join(map(str, mask)) for mask in masks)
    why = "as asked for" if facts.masks else "the smallest on the finest grid, else state --masks"
    shown = f"{shown} ({why}), decoded as {decode}"
    reason = f"raw grids of {cells} cells, {layout.upper()}, with anchors {shown}"
    return Recognised(head, tuple(grids), classes, reason, V5_FAMILY if decode == "v5" else FAMILY)


def _usual_masks(sizes: Sequence[int], count: int) -> tuple[tuple[int, ...], ...]:
    """The smallest anchors on the finest grid, and so on, as YOLOv3 and YOLOv4 have them."""
    each = count // len(sizes)
    ranks = [sorted(sizes, reverse=True).index(size) for size in sizes]
    return tuple(tuple(range(rank * each, (rank + 1) * each)) for rank in ranks)
