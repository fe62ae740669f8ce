"""Manifests and random tensors for every head: ordinary ones, and ones made to be difficult."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from qzd_ext import manifest as m
from qzd_ext.detections import FloatArray
from qzd_ext.geometry import Transform

__all__ = ["KINDS", "POISON", "Case", "make_case", "manifest_of", "plain"]

WIDTH, HEIGHT = 96, 64
POISON = (np.nan, np.inf, -np.inf, 3e38, -3e38)


@dataclass
class Case:
    manifest: m.Manifest
    tensors: list[FloatArray]
    priors: FloatArray | None


def manifest_of(head: m.Head, classes: int, width: int = WIDTH, height: int = HEIGHT) -> m.Manifest:
    return m.Manifest(
        name="case",
        task=head.task,
        precision="fp32",
        input=m.Input(width=width, height=height, resize="stretch"),
        head=head,
        labels=m.Labels(names=tuple(f"class {i}" for i in range(classes))),
    )


def plain(manifest: m.Manifest) -> Transform:
    """The frame is the input itself."""
    return Transform(manifest.input.width, manifest.input.height, 1.0, 1.0, 0, 0)


class Maker:
    """Random values: from few levels when ties are wanted."""

    def __init__(self, seed: int, levels: int | None) -> None:
        self.rng = np.random.default_rng(seed)
        self.levels = levels

    def between(self, low: float, high: float, shape: tuple[int, ...]) -> FloatArray:
        u = self.rng.random(shape)
        if self.levels:
            u = np.floor(u * self.levels) / self.levels
        return (low + u * (high - low)).astype(np.float32)

    def logits(self, shape: tuple[int, ...]) -> FloatArray:
        return self.between(-6, 3, shape)

    def centers(self, n: int) -> FloatArray:
        """xc yc w h in pixels."""
        low, high = np.array([0, 0, 4, 4]), np.array([WIDTH, HEIGHT, 40, 40])
        return np.asarray(low + self.between(0, 1, (n, 4)) * (high - low), np.float32)


Parts = tuple[m.Head, list[FloatArray], FloatArray | None]
"""A head, its tensors, and its priors if it has any."""


def _joined(*parts: FloatArray) -> FloatArray:
    return np.concatenate(parts, -1)[None]


def _anchor(
    make: Maker,
    n: int,
    c: int,
    layout: Literal["nchw", "nhwc"],
    masks: tuple[tuple[int, ...], ...] = ((2, 0), (1,)),
    scale_xy: tuple[float, ...] = (),
) -> Parts:
    head = m.YoloAnchor(
        anchors=((9.0, 7.0), (20.0, 31.0), (13.0, 13.0)), masks=masks, scale_xy=scale_xy, layout=layout
    )
    tensors = []
    for mask, stride in zip(masks, (16, 32), strict=False):
        grid = make.logits((1, len(mask), 5 + c, HEIGHT // stride, WIDTH // stride))
        grid[:, :, 2:4] /= 4
        grid = grid.reshape(1, -1, *grid.shape[3:])
        tensors.append(np.ascontiguousarray(grid if layout == "nchw" else grid.transpose(0, 2, 3, 1)))
    return head, tensors, None


def _ssd(
    make: Maker, n: int, c: int, activation: Literal["sigmoid", "softmax", "none"], background: bool
) -> Parts:
    shape = (1, n, c + background)
    values = make.between(0, 1, shape) if activation == "none" else make.logits(shape)
    codes, priors = make.between(-2, 2, (1, n, 4)), make.between(0.2, 0.6, (n, 4))
    return m.Ssd(activation=activation, background=background), [codes, values], priors


def _v5(make: Maker, n: int, c: int, normalized: bool) -> Parts:
    boxes = make.centers(n) / (np.array([WIDTH, HEIGHT] * 2, np.float32) if normalized else np.float32(1))
    return m.YoloV5(normalized=normalized), [_joined(boxes, make.between(0, 1, (n, 1 + c)))], None


def _x(make: Maker, n: int, c: int) -> Parts:
    cells = sum((HEIGHT // s) * (WIDTH // s) for s in (8, 16, 32))
    boxes = make.between(-1, 2, (cells, 4))
    return m.Yolox(), [_joined(boxes, make.between(0, 1, (cells, 1 + c)))], None


def _v8(
    make: Maker, n: int, c: int, layout: Literal["channels_first", "channels_last"], normalized: bool
) -> Parts:
    boxes = make.centers(n) / (np.array([WIDTH, HEIGHT] * 2, np.float32) if normalized else np.float32(1))
    rows = _joined(boxes, make.between(0, 1, (n, c)))
    tensor = rows if layout == "channels_last" else np.ascontiguousarray(rows.transpose(0, 2, 1))
    return m.YoloV8(layout=layout, normalized=normalized), [tensor], None


def _v8_raw(
    make: Maker, n: int, c: int, tensors: Literal["joined", "split", "scales"], bins: int = 8
) -> Parts:
    sizes = [(HEIGHT // s, WIDTH // s) for s in (16, 32)]
    cells = sum(h * w for h, w in sizes)
    values = make.logits((1, 4 * bins + c, cells))
    if tensors == "split":
        parts = [values[:, : 4 * bins].copy(), values[:, 4 * bins :].copy()]
    elif tensors == "joined":
        parts = [values]
    else:
        cuts = np.split(values, np.cumsum([h * w for h, w in sizes])[:-1], 2)
        parts = [np.ascontiguousarray(v).reshape(1, -1, *size) for v, size in zip(cuts, sizes, strict=True)]
    return m.YoloV8Raw(strides=(16, 32), bins=bins, tensors=tensors), parts, None


KINDS: dict[str, Callable[[Maker, int, int], Parts]] = {
    "ssd sigmoid": partial(_ssd, activation="sigmoid", background=True),
    "ssd sigmoid, no background": partial(_ssd, activation="sigmoid", background=False),
    "ssd softmax": partial(_ssd, activation="softmax", background=True),
    "ssd softmax, no background": partial(_ssd, activation="softmax", background=False),
    "ssd activated": partial(_ssd, activation="none", background=True),
    "anchor nchw": partial(_anchor, layout="nchw"),
    "anchor nhwc": partial(_anchor, layout="nhwc", scale_xy=(1.05, 1.2)),
    "anchor one scale": partial(_anchor, layout="nchw", masks=((1, 2, 0),), scale_xy=(2.0,)),
    "v5": partial(_v5, normalized=False),
    "v5 normalized": partial(_v5, normalized=True),
    "x": _x,
    "v8 columns": partial(_v8, layout="channels_first", normalized=False),
    "v8 columns normalized": partial(_v8, layout="channels_first", normalized=True),
    "v8 rows": partial(_v8, layout="channels_last", normalized=False),
    "v8 raw joined": partial(_v8_raw, tensors="joined"),
    "v8 raw split": partial(_v8_raw, tensors="split"),
    "v8 raw scales": partial(_v8_raw, tensors="scales"),
}


def make_case(
    kind: str, seed: int = 0, n: int = 60, classes: int = 5, levels: int | None = None, poison: int = 0
) -> Case:
    """One head's manifest with tensors; `poison` of their values are not numbers, infinite or huge."""
    make = Maker(seed, levels)
    head, tensors, priors = KINDS[kind](make, n, classes)
    for _ in range(poison):
        flat = tensors[make.rng.integers(len(tensors))].reshape(-1)
        if len(flat):
            flat[make.rng.integers(len(flat))] = make.rng.choice(np.array(POISON, np.float32))
    return Case(manifest_of(head, classes), tensors, priors)
