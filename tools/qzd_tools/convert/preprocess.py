"""Folding what a model expects of its input into its graph, so that it takes plain frames.

After it the graph takes u8 NHWC BGR `[1, H, W, 3]` and gives float32.
"""

from __future__ import annotations

import openvino as ov
from openvino.preprocess import ColorFormat, PrePostProcessor

from qzd_ext.manifest import Input
from qzd_tools.convert.facts import Facts, known, wanted
from qzd_tools.convert.inputs import Picture
from qzd_tools.graph.walk import simplify

__all__ = ["fold", "input_of", "usual_crop"]

CENTRAL_CROP = 0.875
"""Part of the short side that ImageNet classifiers are shown; 224 of 256."""


def fold(model: ov.Model, picture: Picture, facts: Facts) -> ov.Model:
    """Put colour order, mean, scale and layout into the graph.

    Parameters
    ----------
    model : ov.Model
        As it was trained; it is changed.
    picture : Picture
        Its input.
    facts : Facts
        `color`, `mean` and `scale` must be known.

    Returns
    -------
    ov.Model
        Input u8 `[1, H, W, 3]` BGR; results float32 in the order they were.
    """
    assert facts.mean is not None
    assert facts.scale is not None
    steps = PrePostProcessor(model)
    image = steps.input()
    image.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC")).set_color_format(ColorFormat.BGR)
    if facts.color == "rgb":
        image.preprocess().convert_color(ColorFormat.RGB)
    if any(facts.mean) or set(facts.scale) != {1.0}:
        image.preprocess().convert_element_type(ov.Type.f32)
        image.preprocess().mean(list(facts.mean)).scale(list(facts.scale))
    image.model().set_layout(ov.Layout(picture.layout))
    for index in range(len(model.outputs)):
        steps.output(index).tensor().set_element_type(ov.Type.f32)
    folded = steps.build()
    simplify(folded)
    return folded


def input_of(picture: Picture, facts: Facts) -> Input:
    """The manifest's `[input]`.

    Raises
    ------
    UsageError
        How frames are to be resized is not known.
    """
    wanted(facts, "resize")
    assert facts.resize is not None
    short_side = facts.short_side or usual_crop(picture).short_side
    assert short_side is not None
    return Input(
        width=picture.width,
        height=picture.height,
        resize=facts.resize,
        anchor=facts.anchor or "center",
        pad=114 if facts.pad is None else facts.pad,
        short_side=short_side,
    )


def usual_crop(picture: Picture) -> Facts:
    """The short side of the frame that an ImageNet classifier's input is cut from."""
    longest = max(picture.width, picture.height)
    reason = f"a central crop of {CENTRAL_CROP:g}, as ImageNet classifiers have it, else state --short-side"
    return known(reason, short_side=max(round(longest / CENTRAL_CROP), longest))
