"""Cutting a TensorFlow Object Detection API graph at its raw heads.

Such a graph keeps its resizing and its NMS in Loops, which cost more than the network. They are found by
what is in them. How the boxes are decoded is not read from the graph but tried out: known codes go in, and
what comes out gives the priors and the scales, or shows that it is another coder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import openvino as ov

from qzd_ext.detections import FloatArray
from qzd_ext.manifest import Ssd
from qzd_tools.convert.facts import Facts, Recognised, known
from qzd_tools.convert.heads.ssd import FAMILY, raw_codes, raw_scores
from qzd_tools.graph.walk import ancestors, constant, core, cut

__all__ = ["input_size", "raw_heads", "without_copies"]

CODER_TOLERANCE = 1e-4
"""In units of the picture; float32 arithmetic is good to 1e-6 here, another coder is off by 1e-2."""

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


def input_size(model: ov.Model) -> tuple[int, int] | None:
    """Height and width that the graph's own Loop resizes pictures to; None where it has none."""
    for loop in _loops(model):
        for node in loop.get_function().get_ordered_ops():
            if node.get_type_name() == "Interpolate":
                size = constant(node.input_value(1))
                if size is not None and size.data.size == 2:
                    height, width = size.data.flatten().tolist()
                    return int(height), int(width)
    return None


def raw_heads(model: ov.Model) -> Recognised | str:
    """The head `ssd` of a graph that ends in an NMS of its own, or why there is none."""
    loop = _nms_loop(model)
    if loop is None:
        return "no Loop with a NonMaxSuppression in it"
    sources = [_stacked(value) for value in loop.input_values()]
    boxes = [s for s in sources if _is_shape(s, 1, None, 1, 4) or _is_shape(s, 1, None, 4)]
    decoded = _decoded(model, boxes)
    if isinstance(decoded, str):
        return decoded
    codes, priors, scales, taken = decoded
    scores = [s for s in sources if _is_shape(s, 1, len(priors), None) and s != taken]
    if not scores:
        return f"the Loop with its NMS takes {len(priors)} boxes and no scores [1,{len(priors)},C]"
    raw, activation = raw_scores(scores[0])
    classes = scores[0].shape[2]
    without_copies(model)
    return Recognised(
        Ssd(scales=scales, activation=activation, background=raw.shape[2] == classes + 1),
        (codes, raw),
        classes,
        f"an NMS in a Loop, cut off: {len(priors)} box codes with scales {scales}, "
        f"and {raw.shape[2]} class scores each, {activation} still to be applied",
        FAMILY.over(_thresholds(loop)),
        priors,
    )


def _decoded(
    model: ov.Model, boxes: Sequence[ov.Output]
) -> tuple[ov.Output, FloatArray, tuple[float, float, float, float], ov.Output] | str:
    """Find by trying which of some outputs are decoded boxes, and from what.

    Returns
    -------
    codes : ov.Output
        [1, N, 4].
    priors, scales
        From `_probe`.
    boxes : ov.Output
        The one of `boxes` that is decoded.
    """
    if not boxes:
        return "the Loop with its NMS does not take boxes [1,N,1,4] or [1,N,4]"
    pairs = [(codes, one) for one in boxes for codes in raw_codes(one)]
    if not pairs:
        return "its boxes are not decoded from predictions of four numbers for each"
    for codes, one in pairs:
        coder = _probe(model, codes, one)
        if coder is not None:
            rows = [1, len(coder[0]), 4]
            if list(codes.shape) != rows:
                codes = ov.opset13.reshape(codes, rows, special_zero=False).output(0)
            return codes, *coder, one
    return "its boxes are decoded by another coder than FasterRcnnBoxCoder"


def _loops(model: ov.Model) -> list[ov.Node]:
    return [n for n in model.get_ordered_ops() if n.get_type_name() in {"Loop", "TensorIterator"}]


def _nms_loop(model: ov.Model) -> ov.Node | None:
    for loop in _loops(model):
        if any("NonMaxSuppression" in n.get_type_name() for n in loop.get_function().get_ordered_ops()):
            return loop
    return None


def _stacked(value: ov.Output) -> ov.Output:
    """What a one-element TensorArray is filled with."""
    node = value.get_node()
    return node.input_value(2) if node.get_type_name() == "ScatterNDUpdate" else value


def _is_shape(output: ov.Output, *wanted: int | None) -> bool:
    shape = output.partial_shape
    if shape.is_dynamic or len(shape) != len(wanted) or output.get_node().get_type_name() == "Constant":
        return False
    return all(w is None or w == d.get_length() for w, d in zip(wanted, shape, strict=True))


def _probe(
    model: ov.Model, codes: ov.Output, boxes: ov.Output
) -> tuple[FloatArray, tuple[float, float, float, float]] | None:
    """Priors (yc xc h w) and scales of the coder that makes `boxes` of `codes`; None if it is another one.

    Zeros give the priors. Ones give the scales: the centre moves by 1 / scale of a prior's side, and the
    sides grow by exp(1 / scale). Random codes then tell whether that is all that the graph does.
    """
    decode = _decoder(model, codes, boxes)
    count = math.prod(codes.shape) // 4
    priors = _centred(decode(np.zeros((count, 4), np.float32)))
    ones = _centred(decode(np.ones((count, 4), np.float32)))
    with np.errstate(all="ignore"):  # what is no coder divides by nothing
        moved = np.median((ones[:, :2] - priors[:, :2]) / priors[:, 2:], axis=0)
        grown = np.median(np.log(ones[:, 2:] / priors[:, 2:]), axis=0)
    steps = [float(x) for x in (*moved, *grown)]
    if not all(np.isfinite(x) and x > 0 for x in steps):
        return None
    ty, tx, th, tw = (round(1 / x, 4) for x in steps)
    scales = (ty, tx, th, tw)
    tried = np.random.default_rng(0).normal(0, 1, (count, 4)).astype(np.float32)
    step = tried / np.array(scales, np.float32)
    centres = priors[:, :2] + step[:, :2] * priors[:, 2:]
    expected = np.concatenate([centres, priors[:, 2:] * np.exp(step[:, 2:])], axis=1)
    if not np.allclose(_centred(decode(tried)), expected, atol=CODER_TOLERANCE):
        return None
    return np.ascontiguousarray(priors, np.float32), scales


def _decoder(
    model: ov.Model, codes: ov.Output, boxes: ov.Output
) -> Callable[[FloatArray], FloatArray]:
    """The part of a graph between codes and boxes, as a function of (N, 4) arrays; the graph stays."""
    inlet = ov.opset13.parameter(codes.shape, np.float32)
    targets = list(codes.get_target_inputs())
    for target in targets:
        target.replace_source_output(inlet.output(0))
    needed = {node.get_friendly_name() for node in ancestors(boxes)}
    pictures = [p for p in model.get_parameters() if p.get_friendly_name() in needed]
    part = ov.Model([ov.opset13.result(boxes)], [inlet, *pictures], "coder")
    compiled = core().compile_model(part, "CPU", EXACT)
    for target in targets:
        target.replace_source_output(codes)
    blank = [np.zeros(p.shape, np.uint8) for p in pictures]

    def decode(array: FloatArray) -> FloatArray:
        found = compiled([array.reshape(codes.shape), *blank])[0]
        return np.asarray(found, np.float32).reshape(-1, 4)

    return decode


def _centred(corners: FloatArray) -> FloatArray:
    """y0 x0 y1 x1 to yc xc h w, both (N, 4)."""
    sides = corners[:, 2:] - corners[:, :2]
    return np.concatenate([corners[:, :2] + sides / 2, sides], axis=1)


def without_copies(model: ov.Model) -> None:
    """Take out the Loops that hand the picture on as it is, in place.

    They resize to the size that the graph has now, which is a copy, picture by picture; that it is one is
    tried out with a random picture.
    """
    picture = model.get_parameters()[0]
    for loop in _loops(model):
        fed = [s for s in map(_stacked, loop.input_values()) if s.partial_shape == picture.partial_shape]
        if not fed:
            continue
        for output in loop.outputs():
            if output.partial_shape == picture.partial_shape and _same(model, output, fed[0]):
                for target in output.get_target_inputs():
                    target.replace_source_output(fed[0])


def _same(model: ov.Model, output: ov.Output, source: ov.Output) -> bool:
    """Whether two tensors of a graph are equal for a random picture."""
    if output.element_type != source.element_type:
        return False
    compiled = core().compile_model(cut(model, [output, source]), "CPU", EXACT)
    shape = tuple(model.inputs[0].shape)
    found = compiled([np.random.default_rng(0).integers(0, 256, shape, np.uint8)])
    return bool(np.array_equal(found[0], found[1]))


def _thresholds(loop: ov.Node) -> Facts:
    """The IoU threshold of the NMS in a Loop."""
    for node in loop.get_function().get_ordered_ops():
        if "NonMaxSuppression" in node.get_type_name():
            iou = constant(node.input_value(3))
            if iou is not None:
                return known("the graph's own NMS", iou=round(float(iou.data.flatten()[0]), 4))
    return Facts()
