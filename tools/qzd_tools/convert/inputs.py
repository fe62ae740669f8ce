"""The picture that a model takes: where it enters, its size, and what the first operations say of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import openvino as ov

from qzd_ext.errors import ModelError, UsageError
from qzd_tools.convert.facts import Facts, known
from qzd_tools.graph.walk import constant, describe, tried

__all__ = ["Picture", "find_picture", "make_static"]

FIRST_STEPS = 8
"""Operations looked at behind the input."""

WHITE, LARGEST = 255, 256.0
"""A pixel, and what arithmetic that is meant for pixels makes of it at most."""
SMALLEST, SPREAD = 16.0, 200.0
"""What is left of a black pixel if a mean of pixels was taken from it, and how far white is from it."""

SIZES = {"scale_factor": "11", "im_shape": "hw", "image_shape": "hw", "orig_target_sizes": "wh"}
"""By name: second inputs [1,2] that tell a model the size of its picture, and what they then hold."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A model's image input, of static shape.

    Attributes
    ----------
    index : int
        Among the model's inputs.
    layout : "NCHW" or "NHWC"
    width, height : int
        Pixels.
    facts : Facts
        What the operations behind it say.
    takes_bytes : bool
        Whether the graph takes whole numbers: nothing but pixels as they are, 0..255, can be given to it.
    """

    index: int
    layout: Literal["NCHW", "NHWC"]
    width: int
    height: int
    facts: Facts
    takes_bytes: bool


def make_static(
    model: ov.Model, shape: Sequence[int] | None, trained: tuple[int, int] | None = None
) -> None:
    """Give a model one image at a time and a fixed size, in place.

    Parameters
    ----------
    model : ov.Model
    shape : sequence of int or None
        Height and width, or all four dimensions in the model's own order; None to keep the model's.
    trained : tuple of int, optional
        Height and width that the model was trained at, for one that leaves its size open.

    Raises
    ------
    UsageError
        The model leaves its size open and `shape` does not give it.
    ModelError
        The graph cannot take that shape.
    """
    index, layout = _image_input(model, shape)
    picture = model.inputs[index]
    dims = _dimensions(picture, shape)
    spots = (2, 3) if layout == "NCHW" else (1, 2)
    if dims[0] is not None and dims[0] > 1 and (shape is None or len(shape) != 4):
        raise ModelError(
            f"the model takes {dims[0]} pictures at once: {picture.partial_shape}",
            wanted="one picture at a time",
            fix="export the model with batch 1, or try --shape 1,... with all four dimensions",
        )
    dims[0] = 1
    dims[6 - sum(spots)] = 3
    if shape is None and None in dims:
        shape = trained
    if shape is not None:
        given = shape if len(shape) == 2 else [shape[i] for i in spots]
        dims[spots[0]], dims[spots[1]] = given
        if len(shape) == 4 and list(shape) != dims:
            raise UsageError(
                f"--shape {','.join(map(str, shape))}",
                wanted=f"one picture of three channels, {'1,3,H,W' if layout == 'NCHW' else '1,H,W,3'}",
                fix="state --shape HEIGHT,WIDTH",
            )
    if None in dims:
        raise UsageError(
            f"the model takes pictures of any size: {picture.partial_shape}",
            wanted="one size, since a fixed shape is faster and can be checked",
            fix="state it with --shape HEIGHT,WIDTH",
        )
    _fix_sizes(model, int(dims[spots[1]] or 0), int(dims[spots[0]] or 0))
    if picture.partial_shape == ov.PartialShape(dims):
        return
    try:
        model.reshape({picture: ov.PartialShape(dims)})
    except RuntimeError as error:
        raise ModelError(
            f"the model cannot take {dims} instead of {picture.partial_shape}",
            wanted="a graph whose operations follow the shape of its input",
            fix="export the model with that shape, or leave --shape out",
        ) from error


def _fix_sizes(model: ov.Model, width: int, height: int) -> None:
    """Replace second inputs that tell the size of the picture by what they are for the model's input."""
    for parameter in model.get_parameters():
        values = next((SIZES[n] for n in _names(parameter.output(0)) if n in SIZES), None)
        if values is not None:
            kind = parameter.get_element_type().to_dtype()
            sides = {"w": width, "h": height, "1": 1}
            fixed = ov.opset13.constant(np.array([[sides[side] for side in values]], kind))
            for target in parameter.output(0).get_target_inputs():
                target.replace_source_output(fixed.output(0))
            model.remove_parameter(parameter)
    model.validate_nodes_and_infer_types()


def _names(port: ov.Output) -> set[str]:
    return {*port.get_names(), port.get_node().get_friendly_name()}


def _dimensions(port: ov.Output, stated: Sequence[int] | None) -> list[int | None]:
    """All four of an input, those that the graph leaves open as stated; empty where it has not four."""
    shape = port.partial_shape
    if shape.rank.is_dynamic or len(shape) != 4:
        return []
    others: Sequence[int | None] = stated if stated is not None and len(stated) == 4 else [None] * 4
    return [d.get_length() if d.is_static else other for d, other in zip(shape, others, strict=True)]


def _image_input(
    model: ov.Model, stated: Sequence[int] | None = None
) -> tuple[int, Literal["NCHW", "NHWC"]]:
    """The index and layout of the one input that is a picture."""
    found: list[tuple[int, Literal["NCHW", "NHWC"]]] = []
    for index, port in enumerate(model.inputs):
        dims = _dimensions(port, stated)
        if dims and dims[1] == 3:
            found.append((index, "NCHW"))
        elif dims and dims[3] == 3:
            found.append((index, "NHWC"))
    others = [port for port in model.inputs if not _names(port) & SIZES.keys()]
    if len(others) != 1 or len(found) != 1:
        raise ModelError(
            f"cannot tell which input is the picture: {describe(model)}",
            wanted="one input, [1,3,H,W] or [1,H,W,3]",
            fix="export the model with the picture as its only input; if all is open, state --shape 1,3,H,W",
        )
    return found[0]


def find_picture(model: ov.Model) -> Picture:
    """The image input of a model that `make_static` went over, and what follows it in the graph."""
    index, layout = _image_input(model)
    port = model.inputs[index]
    shape = port.shape
    height, width = shape[2:] if layout == "NCHW" else shape[1:3]
    facts = _reversal(port).over(_normalisation(model, port))
    return Picture(index, layout, width, height, facts, _takes_bytes(port))


def _takes_bytes(port: ov.Output) -> bool:
    """Signed bytes are left out: pixels are none of them, and `--mean 128` makes them such."""
    return bool(port.element_type.is_integral()) and port.element_type != ov.Type.i8


def _first_operations(port: ov.Output) -> list[ov.Node]:
    """The operations that a picture goes through one after another, up to where its way parts."""
    chain: list[ov.Node] = []
    while len(chain) < FIRST_STEPS:
        targets = [t.get_node() for t in port.get_target_inputs()]
        targets = [t for t in targets if t.get_type_name() != "ShapeOf"]
        if len(targets) != 1:
            break
        chain.append(targets[0])
        port = targets[0].output(0)
    return chain


def _reversal(port: ov.Output) -> Facts:
    """A graph that starts by turning the channels round was made to be fed with BGR."""
    for node in _first_operations(port):
        if node.get_type_name() == "Gather":
            indices = constant(node.input_value(1))
            if indices is not None and indices.data.flatten().tolist() == [2, 1, 0]:
                return known("the graph starts by reversing the channels to RGB", color="bgr")
        if node.get_type_name() == "Convolution":
            break
    return Facts()


def _normalisation(model: ov.Model, port: ov.Output) -> Facts:
    """A graph that starts with arithmetic on constants, or takes bytes, wants pixels as they are.

    Not if that arithmetic makes large numbers of bright pixels, or moves them by less than a mean of pixels
    and scales nothing: it was made for pixels in 0..1. What follows a FakeQuantize only puts back into floats
    what that took from them.
    """
    if _takes_bytes(port):
        return known("the model takes bytes", mean=(0.0,), scale=(1.0,))
    last = None
    for node in _first_operations(port):
        kind = node.get_type_name()
        if kind in {"Convolution", "FakeQuantize", "GroupConvolution"}:
            break
        if kind in {"Subtract", "Add", "Multiply", "Divide"}:
            if not any(constant(value) is not None for value in node.input_values()):
                break
            last = node
    if last is None:
        return Facts()
    black, white = (tried(model, last.output(0), value) for value in (0, WHITE))
    unscaled = np.abs(white - black).max() > SPREAD and np.abs(black).max() < SMALLEST
    if np.abs(white).max() > LARGEST or unscaled:
        return Facts()
    return known("the graph normalises its input itself", mean=(0.0,), scale=(1.0,))
