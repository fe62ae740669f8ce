"""Manifests and random tensors for every head: ordinary ones, and ones made to be difficult."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from qzd_ext import manifest as m
from qzd_ext.detections import FloatArray
from qzd_ext.geometry import Transform

__all__ = ["KINDS", "POISON", "Case", "make_case", "manifest_of", "plain"]

WIDTH, HEIGHT = 96, 64
POISON = (np.nan, np.inf, -np.inf, 3e38, -3e38, 1.01, -0.01)


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
    """Return the transform of a frame that is the input itself."""
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
        """Return xc yc w h in pixels."""
        low, high = np.array([0, 0, 4, 4]), np.array([WIDTH, HEIGHT, 40, 40])
        return np.asarray(low + self.between(0, 1, (n, 4)) * (high - low), np.float32)


Parts = tuple[m.Head, list[FloatArray], FloatArray | None]
"""A head, its tensors, and its priors if it has any."""


def _joined(*parts: FloatArray) -> FloatArray:
    return np.concatenate(parts, -1)[None]


def _anchor(
    make: Maker, n: int, c: int, layout: Literal["nchw", "nhwc", "nahwc"],
    masks: tuple[tuple[int, ...], ...] = ((2, 0), (1,)), scale_xy: tuple[float, ...] = (),
    decode: Literal["darknet", "v5"] = "darknet",
) -> Parts:  # fmt: skip
    head = m.YoloAnchor(
        anchors=((9.0, 7.0), (20.0, 31.0), (13.0, 13.0)), masks=masks, scale_xy=scale_xy, layout=layout,
        decode=decode,
    )  # fmt: skip
    tensors = []
    for mask, stride in zip(masks, (16, 32), strict=False):
        grid = make.logits((1, len(mask), 5 + c, HEIGHT // stride, WIDTH // stride))
        grid[:, :, 2:4] /= 4
        if layout == "nahwc":
            tensors.append(np.ascontiguousarray(grid.transpose(0, 1, 3, 4, 2)))
            continue
        grid = grid.reshape(1, -1, *grid.shape[3:])
        tensors.append(np.ascontiguousarray(grid if layout == "nchw" else grid.transpose(0, 2, 3, 1)))
    return head, tensors, None


def _values(make: Maker, shape: tuple[int, ...], activation: str) -> FloatArray:
    return make.between(0, 1, shape) if activation == "none" else make.logits(shape)


def _ssd(
    make: Maker, n: int, c: int, activation: Literal["sigmoid", "softmax", "none"], background: bool,
    order: Literal["yxhw", "xywh"] = "yxhw", sizes: Literal["exp", "linear"] = "exp", columns: int = 4,
) -> Parts:  # fmt: skip
    values = _values(make, (1, n, c + background), activation)
    codes, priors = make.between(-2, 2, (1, n, columns)), make.between(0.2, 0.6, (n, 4))
    head = m.Ssd(activation=activation, background=background, order=order, sizes=sizes)
    return head, [codes, values], priors


def _boxes_scores(
    make: Maker, n: int, c: int, boxes: Literal["corners", "center"] = "corners", normalized: bool = False,
    rows: bool = True, boxes_rows: bool = True, activation: Literal["sigmoid", "softmax", "none"] = "none",
    background: bool = False,
) -> Parts:  # fmt: skip
    centers = make.centers(n)
    if boxes == "corners":
        middle, half = centers[:, :2], centers[:, 2:] / 2
        centers = np.concatenate([middle - half, middle + half], 1)
    found = centers / (np.array([WIDTH, HEIGHT] * 2, np.float32) if normalized else np.float32(1))
    scores = _values(make, (n, c + background), activation)
    head = m.BoxesScores(
        boxes=boxes, normalized=normalized, activation=activation, background=background,
        boxes_layout="channels_last" if boxes_rows else "channels_first",
        scores_layout="channels_last" if rows else "channels_first",
    )  # fmt: skip
    laid = [found if boxes_rows else found.T, scores if rows else scores.T]
    return head, [np.ascontiguousarray(t, np.float32)[None] for t in laid], None


def _detr(make: Maker, n: int, c: int, activation: Literal["sigmoid", "softmax"], no_object: bool) -> Parts:
    boxes = np.asarray(make.centers(n) / np.array([WIDTH, HEIGHT] * 2), np.float32)
    head = m.Detr(activation=activation, no_object=no_object)
    return head, [make.logits((1, n, c + no_object)), boxes[None]], None


def _on_cells(make: Maker, c: int, head: m.Dfl | m.Distances, channels: int, boxes: int = 1) -> Parts:
    """Sides and classes of a head whose boxes are measured from cells, as its `tensors` say."""
    n = boxes * sum(-(-HEIGHT // s) * -(-WIDTH // s) for s in head.strides)
    sides = make.logits((1, n, channels)) if channels > 4 else make.between(0, 3, (1, n, channels))
    values = _values(make, (1, n, c), head.activation)
    if head.tensors == "split":
        return head, [sides, values], None
    parts = [values, sides] if head.tensors == "classes_boxes" else [sides, values]
    return head, [np.concatenate(parts, 2)], None


def _dfl(make: Maker, n: int, c: int, bins: int = 8, **options: Any) -> Parts:
    return _on_cells(make, c, m.Dfl(strides=(16, 40), bins=bins, **options), 4 * bins)


def _distances(make: Maker, n: int, c: int, **options: Any) -> Parts:
    head = m.Distances(strides=(16, 40), **options)
    return _on_cells(make, c, head, 4, head.boxes_per_cell)


def _v5(make: Maker, n: int, c: int, normalized: bool) -> Parts:
    boxes = make.centers(n) / (np.array([WIDTH, HEIGHT] * 2, np.float32) if normalized else np.float32(1))
    return m.YoloV5(normalized=normalized), [_joined(boxes, make.between(0, 1, (n, 1 + c)))], None


def _x(make: Maker, n: int, c: int, score: Literal["product", "geometric_mean"] = "product") -> Parts:
    cells = sum((HEIGHT // s) * (WIDTH // s) for s in (8, 16, 32))
    boxes = make.between(-1, 2, (cells, 4))
    return m.Yolox(score=score), [_joined(boxes, make.between(0, 1, (cells, 1 + c)))], None


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


KINDS: dict[str, tuple[Callable[..., Parts], dict[str, Any]]] = {
    "ssd sigmoid": (_ssd, {"activation": "sigmoid", "background": True}),
    "ssd sigmoid, no background": (_ssd, {"activation": "sigmoid", "background": False}),
    "ssd softmax": (_ssd, {"activation": "softmax", "background": True}),
    "ssd softmax, no background": (_ssd, {"activation": "softmax", "background": False}),
    "ssd activated": (_ssd, {"activation": "none", "background": True}),
    "ssd x first": (_ssd, {"activation": "none", "background": True, "order": "xywh"}),
    "ssd linear": (_ssd, {"activation": "sigmoid", "background": False, "order": "xywh", "sizes": "linear",
                          "columns": 16}),
    "boxes corners": (_boxes_scores, {}),
    "boxes center, normalized, background": (_boxes_scores, {"boxes": "center", "normalized": True,
                                                             "background": True}),
    "boxes sigmoid": (_boxes_scores, {"activation": "sigmoid"}),
    "boxes softmax": (_boxes_scores, {"activation": "softmax", "background": True}),
    "boxes in rows, scores in columns": (_boxes_scores, {"rows": False}),
    "boxes in columns": (_boxes_scores, {"boxes_rows": False}),
    "all in columns, background": (_boxes_scores, {"rows": False, "boxes_rows": False, "background": True}),
    "detr sigmoid": (_detr, {"activation": "sigmoid", "no_object": False}),
    "detr sigmoid, no object": (_detr, {"activation": "sigmoid", "no_object": True}),
    "detr softmax": (_detr, {"activation": "softmax", "no_object": True}),
    "dfl split": (_dfl, {}),
    "dfl classes first": (_dfl, {"tensors": "classes_boxes", "offset": 0.0}),
    "dfl boxes first, logits": (_dfl, {"tensors": "boxes_classes", "activation": "sigmoid", "bins": 17}),
    "distances split": (_distances, {"offset": 0.0, "unit": "pixels"}),
    "distances joined": (_distances, {"tensors": "boxes_classes", "activation": "sigmoid"}),
    "distances, two per cell": (_distances, {"offset": 0.0, "boxes_per_cell": 2}),
    "anchor nchw": (_anchor, {"layout": "nchw"}),
    "anchor nhwc": (_anchor, {"layout": "nhwc", "scale_xy": (1.05, 1.2)}),
    "anchor nahwc": (_anchor, {"layout": "nahwc"}),
    "anchor v5": (_anchor, {"layout": "nchw", "decode": "v5"}),
    "anchor v5 nahwc": (_anchor, {"layout": "nahwc", "decode": "v5"}),
    "anchor one scale": (_anchor, {"layout": "nchw", "masks": ((1, 2, 0),), "scale_xy": (2.0,)}),
    "v5": (_v5, {"normalized": False}),
    "v5 normalized": (_v5, {"normalized": True}),
    "x": (_x, {}),
    "x geometric mean": (_x, {"score": "geometric_mean"}),
    "v8 columns": (_v8, {"layout": "channels_first", "normalized": False}),
    "v8 columns normalized": (_v8, {"layout": "channels_first", "normalized": True}),
    "v8 rows": (_v8, {"layout": "channels_last", "normalized": False}),
    "v8 raw joined": (_v8_raw, {"tensors": "joined"}),
    "v8 raw split": (_v8_raw, {"tensors": "split"}),
    "v8 raw scales": (_v8_raw, {"tensors": "scales"}),
}


def make_case(
    kind: str, seed: int = 0, n: int = 60, classes: int = 5, levels: int | None = None, poison: int = 0
) -> Case:
    """One head's manifest with tensors; `poison` of their values are NaN, infinite, huge or slightly off."""
    make = Maker(seed, levels)
    build, options = KINDS[kind]
    head, tensors, priors = build(make, n, classes, **options)
    for _ in range(poison):
        flat = tensors[make.rng.integers(len(tensors))].reshape(-1)
        if len(flat):
            flat[make.rng.integers(len(flat))] = make.rng.choice(np.array(POISON, np.float32))
    return Case(manifest_of(head, classes), tensors, priors)
