"""A Darknet network as an OpenVINO graph that ends at the raw grids of its `[yolo]` sections.

The arithmetic is that of AlexeyAB's Darknet: batch norm adds 1e-5 to the variance under the root, leaky
has slope 0.1, and max pooling pads size - 1 with the smaller half first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from qzd_ext.detections import FloatArray
from qzd_ext.manifest import YoloAnchor
from qzd_tools.convert.facts import Facts, Recognised, known
from qzd_tools.convert.formats.darknet import Network, Section, Weights, fault

__all__ = ["build"]

VARIANCE_EPSILON = 1e-5
LEAKY_SLOPE = 0.1

OVERLAPS = {"default": None, "greedynms": None, "diounms": "diou"}
"""By `nms_kind`: the overlap that NMS measures; None for IoU, which a bundle has where nothing is said."""

BETA_NMS = 0.6
"""Darknet's own where a cfg does not say it."""


def _leaky(value: ov.Output) -> ov.Node:
    return ops.prelu(value, ops.constant(np.array([LEAKY_SLOPE], np.float32)))


ACTIVATIONS: dict[str, Callable[[ov.Output], ov.Node]] = {
    "leaky": _leaky,
    "mish": ops.mish,
    "logistic": ops.sigmoid,
    "swish": ops.swish,
    "relu": ops.relu,
}
"""All but `linear`, which does nothing."""


class _Builder:
    """Walks the sections once.

    `outputs` has what each gives, `yolos` the tensors before `[yolo]`, `impossible` counts variances below 0.
    """

    def __init__(self, network: Network) -> None:
        net = network.net
        self.weights: Weights = network.weights
        self.size = net.integer("height", 0), net.integer("width", 0)
        channels = net.integer("channels", 3)
        if min(self.size) < 1 or channels != 3:
            found = f"width, height, channels are {self.size[1]}, {self.size[0]}, {channels}"
            raise fault(net, found, "a positive size and 3 channels")
        self.picture = ops.parameter([1, 3, *self.size], np.float32, "image")
        self.outputs: list[ov.Output] = []
        self.yolos: list[tuple[Section, ov.Output]] = []
        self.impossible = 0

    def add(self, section: Section) -> None:
        """Build one section."""
        previous = self.outputs[-1] if self.outputs else self.picture.output(0)
        node = getattr(self, f"_{section.kind}")(section, previous)
        if node is not previous:
            node.get_node().set_friendly_name(f"{section.kind}_{len(self.outputs)}")
        self.outputs.append(node)

    def _convolutional(self, section: Section, source: ov.Output) -> ov.Output:
        size, groups = section.integer("size", 1, 1), section.integer("groups", 1, 1)
        filters, channels = section.integer("filters", 1, 1), source.shape[1]
        if channels % groups or filters % groups:
            raise fault(section, f"{channels} channels into {filters} filters in {groups} groups",
                        "groups that divide both", option="groups")  # fmt: skip
        kernel, bias = self._kernel(section, (filters, channels // groups, size, size))
        dilation = section.integer("dilation", 1, 1) if size > 1 else 1
        padding = size // 2 if section.integer("pad", 0) else section.integer("padding", 0)
        pads, dilations, strides = [padding * dilation] * 2, [dilation] * 2, _strides(section)
        if groups == 1:
            node = ops.convolution(source, ops.constant(kernel), strides, pads, pads, dilations)
        else:
            grouped = kernel.reshape(groups, filters // groups, channels // groups, size, size)
            node = ops.group_convolution(source, ops.constant(grouped), strides, pads, pads, dilations)
        node = ops.add(node, ops.constant(bias.reshape(1, filters, 1, 1)))
        return self._activated(section, node.output(0), "logistic")

    def _kernel(self, section: Section, shape: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
        """Kernel and bias with batch norm folded in, in the file's order: bias, scale, mean, variance."""
        filters = shape[0]
        bias = self.weights.take(filters)
        if not section.integer("batch_normalize", 0):
            return self.weights.take(*shape), bias
        scale, mean, variance = (self.weights.take(filters).astype(np.float64) for _ in range(3))
        self.impossible += int((variance < 0).sum())
        factor = scale / np.sqrt(np.maximum(variance, 0) + VARIANCE_EPSILON)
        kernel = self.weights.take(*shape) * factor.reshape(-1, 1, 1, 1)
        return kernel.astype(np.float32), (bias - mean * factor).astype(np.float32)

    def _activated(self, section: Section, value: ov.Output, default: str) -> ov.Output:
        name = section.options.get("activation", default)
        if name == "linear":
            return value
        if name not in ACTIVATIONS:
            wanted = f"linear, {', '.join(ACTIVATIONS)}"
            raise fault(section, f"activation={name} is not known", wanted, option="activation")
        return ACTIVATIONS[name](value).output(0)

    def _shortcut(self, section: Section, source: ov.Output) -> ov.Output:
        total = source
        for other in self._referred(section, "from"):
            if other.shape != source.shape:
                found = f"it adds {list(other.shape)} to {list(source.shape)}"
                raise fault(section, found, "two of the same shape", option="from")
            total = ops.add(total, other).output(0)
        return self._activated(section, total, "linear")

    def _route(self, section: Section, _source: ov.Output) -> ov.Output:
        parts = self._referred(section, "layers")
        if len({tuple(p.shape[2:]) for p in parts}) > 1:
            found = f"it joins {' and '.join(str(list(p.shape)) for p in parts)}"
            raise fault(section, found, "the same height and width", option="layers")
        groups, chosen = section.integer("groups", 1, 1), section.integer("group_id", 0)
        if groups > 1:
            if not 0 <= chosen < groups or any(p.shape[1] % groups for p in parts):
                found = f"group {chosen} of {groups} of {[p.shape[1] for p in parts]} channels"
                raise fault(section, found, "groups that divide the channels", option="groups")
            parts = [ops.split(p, 1, groups).output(chosen) for p in parts]
        return ops.concat(parts, 1).output(0) if len(parts) > 1 else parts[0]

    def _referred(self, section: Section, option: str) -> list[ov.Output]:
        """The outputs of the layers that an option names, counted from the front or backwards."""
        here = len(self.outputs)
        found = []
        for number in section.numbers(option):
            index = int(number) if number >= 0 else here + int(number)
            if not 0 <= index < here:
                wanted = f"a layer before this one, which is number {here}"
                raise fault(section, f"there is no layer {int(number)}", wanted, option=option)
            found.append(self.outputs[index])
        if not found:
            raise fault(section, f"{option} is not given", f"{option}=NUMBER,...")
        return found

    def _maxpool(self, section: Section, source: ov.Output) -> ov.Output:
        size = section.integer("size", section.integer("stride", 1, 1), 1)
        padding = section.integer("padding", size - 1)
        begin, end = [padding // 2] * 2, [padding - padding // 2] * 2
        return ops.max_pool(source, _strides(section), [1, 1], begin, end, [size, size]).output(0)

    def _upsample(self, section: Section, source: ov.Output) -> ov.Output:
        stride, scale = section.integer("stride", 2, 1), section.number("scale", 1)
        node = ops.interpolate(source, np.array([stride, stride], np.float32), "nearest", "scales",
                               axes=np.array([2, 3]), coordinate_transformation_mode="asymmetric",
                               nearest_mode="floor")  # fmt: skip
        if scale != 1:
            node = ops.multiply(node, ops.constant(np.array(scale, np.float32)))
        return node.output(0)

    def _dropout(self, _section: Section, source: ov.Output) -> ov.Output:
        return source

    def _yolo(self, section: Section, source: ov.Output) -> ov.Output:
        wanted = len(_mask(section)) * (5 + section.integer("classes", 20))
        if source.shape[1] != wanted:
            raise fault(section, f"{source.shape[1]} channels come in", f"{wanted}: masks * (5 + classes)",
                        fix=f"set filters={wanted} in the section before")  # fmt: skip
        self.yolos.append((section, source))
        return source


def _strides(section: Section) -> list[int]:
    """Down and across."""
    stride = section.integer("stride", 1, 1)
    return [section.integer("stride_y", stride, 1), section.integer("stride_x", stride, 1)]


def _mask(section: Section) -> list[int]:
    """The indices of a section's anchors; all of them where it names none."""
    return [int(i) for i in section.numbers("mask")] or list(range(section.integer("num", 1, 1)))


def _anchors(section: Section) -> list[tuple[float, float]]:
    flat = section.numbers("anchors")
    mask = _mask(section)
    if len(flat) % 2 or not 0 <= min(mask) <= max(mask) < len(flat) // 2:
        found = f"{len(flat)} numbers in anchors, mask {mask}"
        raise fault(section, found, "a width and a height for every index in mask", option="anchors")
    if min(flat) <= 0:
        raise fault(section, f"an anchor's side is {min(flat):g}", "sides above 0", option="anchors")
    return list(zip(flat[::2], flat[1::2], strict=True))


def build(network: Network) -> tuple[ov.Model, Recognised]:
    """Build a network's graph.

    Parameters
    ----------
    network : Network
        Read, but not built; its weights are consumed.

    Returns
    -------
    ov.Model
        Input `image`, `[1, 3, H, W]` float32, RGB in 0..1; one raw grid `[1, A * (5 + C), h, w]` a
        `[yolo]` section.
    Recognised
        The head `yolo_anchor` with the sections' anchors, masks and scale_x_y.

    Raises
    ------
    ModelError
        A section cannot be built, with its line; or the weights have too few or too many bytes.
    """
    builder = _Builder(network)
    for section in network.layers:
        try:
            builder.add(section)
        except (RuntimeError, MemoryError) as error:
            raise fault(section, "OpenVINO cannot build it", "sizes that fit together") from error
    if not builder.yolos:
        raise fault(network.net, "no [yolo] section", "a YOLOv3 or YOLOv4 detector")
    found = _recognised(network.net, [section for section, _ in builder.yolos], builder.impossible)
    network.weights.check()
    results = []
    for section, grid in builder.yolos:
        result = ops.result(grid)
        result.output(0).set_names({f"yolo_{network.layers.index(section)}"})
        results.append(result)
    model = ov.Model(results, [builder.picture], network.net.file.stem)
    return model, found


def _recognised(net: Section, yolos: Sequence[Section], impossible: int) -> Recognised:
    anchors: list[tuple[float, float]] = []
    masks = []
    for section in yolos:
        own = _anchors(section)
        if own != anchors[-len(own) :]:  # as a rule, all sections list the same
            anchors += own
        masks.append(tuple(i + len(anchors) - len(own) for i in _mask(section)))
    counts = {s.integer("classes", 20) for s in yolos}
    if len(counts) > 1:
        raise fault(yolos[-1], f"[yolo] sections have {sorted(counts)} classes", "the same number in all",
                    option="classes")  # fmt: skip
    scales = tuple(_scale_xy(s) for s in yolos)
    head = YoloAnchor(
        anchors=tuple(anchors), masks=tuple(masks), scale_xy=() if set(scales) == {1} else scales
    )
    reason = f"{len(yolos)} [yolo] sections"
    if impossible:
        reason += f"; {impossible} variances below 0 in the weights were taken as 0"
    return Recognised(head, (), counts.pop(), reason, _family(net, yolos))


def _scale_xy(section: Section) -> float:
    scale = section.number("scale_x_y", 1)
    if scale <= 0:
        raise fault(section, f"scale_x_y={scale:g}", "above 0", option="scale_x_y")
    return scale


def _overlap(section: Section) -> str | None:
    """What a section's NMS measures; None where it leaves that open."""
    name = section.options.get("nms_kind")
    if name is not None and name not in OVERLAPS:
        wanted = f"one of {', '.join(OVERLAPS)}"
        raise fault(section, f"nms_kind={name} is not known", wanted, option="nms_kind")
    return OVERLAPS[name] if name is not None else None


def _family(net: Section, yolos: Sequence[Section]) -> Facts:
    letterbox = bool(net.integer("letter_box", 0))
    return known(
        f"as Darknet feeds its networks, letter_box={int(letterbox)}",
        color="rgb",
        mean=(0.0,),
        scale=(255.0,),
        resize="letterbox" if letterbox else "stretch",
        anchor="center",
        pad=127,
    ).over(_nms(yolos))


def _nms(yolos: Sequence[Section]) -> Facts:
    """The overlap of NMS. The exponent that Darknet gives to DIoU's distance is not followed: it is said."""
    section = next(filter(_overlap, yolos), None)
    if section is None:
        return Facts()
    beta = section.number("beta_nms", BETA_NMS)
    note = "" if beta == 1 else f"; without its beta_nms={beta:g}, as if that were 1"
    return known(f"nms_kind={section.options['nms_kind']}{note}", nms=_overlap(section))
