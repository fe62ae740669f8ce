"""ResNet-50 v1 and v1.5, VGG16 and MobileNet v2 as graphs with made-up weights, of their real sizes.

`[1, 224, 224, 3]` float32 in, 1000 probabilities out. Source: He et al. (2015), Simonyan and Zisserman
(2014), Sandler et al. (2018); v1.5 strides in the 3x3 convolution of a block instead of the first 1x1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import openvino as ov
from openvino import opset13 as ops

__all__ = ["ARCHITECTURES"]

SIDE = 224
CLASSES = 1000


MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Rows of its table: expansion, channels, blocks, stride of the first."""


class Builder:
    """Adds layers with weights that keep the size of what goes through them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rng = np.random.default_rng(11)
        self.frame = ops.parameter([1, SIDE, SIDE, 3], np.float32, "picture")
        self.node = ops.transpose(self.frame, np.array([0, 3, 1, 2]))

    def _weights(self, *shape: int) -> np.ndarray:
        spread = np.sqrt(2 / np.prod(shape[1:]))
        return (self.rng.standard_normal(shape, np.float32) * np.float32(spread)).astype(np.float32)

    def convolve(self, channels: int, size: int, stride: int = 1, *, groups: int = 1) -> None:
        """Add a convolution with bias, padded so that stride 1 keeps the size."""
        inside = self.node.shape[1]
        pads = [size // 2] * 2
        kernel = self._weights(channels, inside // groups, size, size)
        strides = [stride, stride]
        if groups == 1:
            node = ops.convolution(self.node, ops.constant(kernel), strides, pads, pads, [1, 1])
        else:
            grouped = kernel.reshape(groups, channels // groups, inside // groups, size, size)
            node = ops.group_convolution(self.node, ops.constant(grouped), strides, pads, pads, [1, 1])
        self.node = ops.add(node, ops.constant(np.zeros((1, channels, 1, 1), np.float32)))

    def relu(self, most: float | None = None) -> None:
        self.node = ops.relu(self.node) if most is None else ops.clamp(self.node, 0.0, most)

    def pool(self, size: int, stride: int, pad: int = 0) -> None:
        self.node = ops.max_pool(self.node, [stride] * 2, [1, 1], [pad] * 2, [pad] * 2, [size] * 2).output(0)

    def dense(self, channels: int) -> None:
        inside = int(np.prod(self.node.shape))
        flat = ops.reshape(self.node, np.array([1, inside]), special_zero=False)
        self.node = ops.matmul(flat, ops.constant(self._weights(channels, inside)), False, True)
        self.node = ops.add(self.node, ops.constant(np.zeros((1, channels), np.float32)))

    def average(self) -> None:
        self.node = ops.reduce_mean(self.node, np.array([2, 3]), keep_dims=False)

    def model(self) -> ov.Model:
        return ov.Model([ops.softmax(self.node, 1)], [self.frame], self.name)


def _bottleneck(net: Builder, channels: int, stride: int, *, v15: bool) -> None:
    source = net.node
    net.convolve(channels, 1, 1 if v15 else stride)
    net.relu()
    net.convolve(channels, 3, stride if v15 else 1)
    net.relu()
    net.convolve(4 * channels, 1)
    branch = net.node
    if source.shape[1] != 4 * channels:
        net.node = source
        net.convolve(4 * channels, 1, stride)
        source = net.node
    net.node = ops.add(branch, source)
    net.relu()


def resnet50(*, v15: bool = False) -> ov.Model:
    net = Builder("resnet50_v1.5" if v15 else "resnet50_v1")
    net.convolve(64, 7, 2)
    net.relu()
    net.pool(3, 2, 1)
    for channels, blocks, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            _bottleneck(net, channels, first if block == 0 else 1, v15=v15)
    net.average()
    net.dense(CLASSES)
    return net.model()


def vgg16() -> ov.Model:
    net = Builder("vgg16")
    for channels, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            net.convolve(channels, 3)
            net.relu()
        net.pool(2, 2)
    for channels in (4096, 4096):
        net.dense(channels)
        net.relu()
    net.dense(CLASSES)
    return net.model()


def mobilenet_v2() -> ov.Model:
    net = Builder("mobilenet_v2")
    net.convolve(32, 3, 2)
    net.relu(6)
    for wider, channels, count, first in MOBILENET_V2:
        for block in range(count):
            source, stride = net.node, first if block == 0 else 1
            inside = source.shape[1]
            if wider > 1:
                net.convolve(wider * inside, 1)
                net.relu(6)
            net.convolve(wider * inside, 3, stride, groups=wider * inside)
            net.relu(6)
            net.convolve(channels, 1)
            if stride == 1 and inside == channels:
                net.node = ops.add(net.node, source)
    net.convolve(1280, 1)
    net.relu(6)
    net.average()
    net.dense(CLASSES)
    return net.model()


ARCHITECTURES: dict[str, tuple[Callable[[], ov.Model], float]] = {
    "resnet50_v1": (resnet50, 103e6),
    "resnet50_v1.5": (lambda: resnet50(v15=True), 103e6),
    "vgg16": (vgg16, 553e6),
    "mobilenet_v2": (mobilenet_v2, 14.6e6),
}
"""By name: how to build it, and about how many bytes its float weights take."""
