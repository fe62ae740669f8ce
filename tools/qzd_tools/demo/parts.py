"""The four parts of the demo: their outlines, and how one is drawn.

Here live shapes and paint. Where parts lie, what hides what and what a camera does to them is scene.py's.
Coordinates are continuous: pixel i of a row covers [i, i + 1), so that a box needs no half-pixel rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["LABELS", "Part", "area", "draw", "fill", "new_part", "outline"]

LABELS = ("bolt", "nut", "washer", "gear")

Colour = tuple[float, float, float]
Points = NDArray[np.float64]
Pixels = NDArray[np.uint8]

_SHIFT = 4  # OpenCV draws in fixed point, 1/16 pixel here
_CIRCLE = 40  # corners of what is round
_RADIUS = {"bolt": (27.0, 42.0), "nut": (17.0, 26.0), "washer": (16.0, 26.0), "gear": (21.0, 34.0)}
_METALS: tuple[Colour, ...] = (  # BGR: steel, zinc, brass, copper, black oxide, blued
    (186, 184, 180),
    (216, 218, 214),
    (96, 176, 212),
    (92, 128, 196),
    (62, 60, 58),
    (150, 118, 92),
)


@dataclass(frozen=True)
class Part:
    """One part lying on the belt.

    Attributes
    ----------
    kind : int
        Index into ``LABELS``.
    x, y : float
        Its middle, in pixels of the belt's own frame of reference.
    radius : float
        Half its longest extent, in pixels.
    angle : float
        Turn, in radians.
    hole, waist : float
        Proportions of its shape, as fractions of the radius.
    teeth : int
        Teeth of a gear, threads of a bolt.
    metal : tuple of float
        BGR colour, 0..255.
    """

    kind: int
    x: float
    y: float
    radius: float
    angle: float
    hole: float
    waist: float
    teeth: int
    metal: Colour


def new_part(rng: np.random.Generator, x: float, y: float, unit: float, belt_luma: float) -> Part:
    """Make a part of random kind, size, turn and metal.

    Parameters
    ----------
    rng : numpy.random.Generator
    x, y : float
        Its middle in belt pixels.
    unit : float
        Size of a pixel's worth of part; 1 suits a frame 240 pixels high.
    belt_luma : float
        Mean brightness of the belt, 0..255: a metal too close to it is not used.
    """
    kind = int(rng.integers(len(LABELS)))
    low, high = _RADIUS[LABELS[kind]]
    metals = [metal for metal in _METALS if abs(sum(metal) / 3 - belt_luma) > 34]
    tint = rng.uniform(0.9, 1.1) * rng.uniform(0.97, 1.03, 3)
    blue, green, red = np.clip(np.array(metals[int(rng.integers(len(metals)))]) * tint, 0, 255).tolist()
    return Part(
        kind=kind,
        x=x,
        y=y,
        radius=float(rng.uniform(low, high)) * unit,
        angle=float(rng.uniform(0, 2 * math.pi)),
        hole=float(rng.uniform(0, 1)),
        waist=float(rng.uniform(0, 1)),
        teeth=int(rng.integers(9, 16)),
        metal=(blue, green, red),
    )


def outline(part: Part) -> list[Points]:
    """Return the part's contours: the outer one first, then its holes.

    Returns
    -------
    list of (k, 2) float64
        x, y in belt pixels.
    """
    return _place(part, _SHAPES[LABELS[part.kind]](part))


def area(contours: Sequence[Points]) -> float:
    """Area within the first contour less that of the others, in square pixels."""
    outer, *holes = (float(cv2.contourArea(points.astype(np.float32))) for points in contours)
    return outer - sum(holes)


def fill(
    canvas: Pixels, contours: Sequence[Points], colour: Colour | float, scale: int, *, smooth: bool = True
) -> None:
    """Fill contours on a canvas, holes left open.

    Parameters
    ----------
    canvas : (h, w) or (h, w, 3) uint8, drawn on
    contours : list of (k, 2) float64
        x, y in frame pixels.
    colour : float or tuple of float
        0..255, BGR.
    scale : int
        Canvas pixels a frame pixel.
    smooth : bool
        Anti-aliased.
    """
    kind = cv2.LINE_AA if smooth else cv2.LINE_8
    cv2.fillPoly(canvas, [_fixed(points, scale) for points in contours], _scalar(colour), kind, _SHIFT)


def draw(canvas: Pixels, part: Part, scale: int, light: float) -> None:
    """Paint a part with its bevel, its highlights and what marks its kind.

    Parameters
    ----------
    canvas : (h, w, 3) uint8, BGR, drawn on
    part : Part
        With x and y in frame pixels.
    scale : int
        Canvas pixels a frame pixel.
    light : float
        Direction the light comes from, in radians.
    """
    contours = outline(part)
    middle = np.array([part.x, part.y])
    lean = 0.03 * part.radius * np.array([math.cos(light), math.sin(light)])
    fill(canvas, contours, _shade(part, 0.62), scale)
    face = (contours[0] - middle) * 0.93 + middle + lean
    fill(canvas, [face, *contours[1:]], part.metal, scale)
    _DETAILS[LABELS[part.kind]](_Brush(canvas, part, scale, light))


# -- shapes, in units of the radius ---------------------------------------------------------------


def _bolt(part: Part) -> list[Points]:
    head, tip = -0.62 + 0.1 * part.hole, 0.93
    wide, thin = 0.36 + 0.08 * part.waist, 0.17 + 0.05 * part.waist
    upper = [(-1.0, wide * 0.8), (-0.95, wide), (head, wide), (head, thin), (tip, thin), (1.0, thin * 0.6)]
    return [np.array([(x, -y) for x, y in upper] + upper[::-1])]


def _nut(part: Part) -> list[Points]:
    return [_ring(1.0, 6), _ring(0.46 + 0.1 * part.hole, _CIRCLE)]


def _washer(part: Part) -> list[Points]:
    return [_ring(1.0, _CIRCLE), _ring(0.44 + 0.2 * part.hole, _CIRCLE)]


def _gear(part: Part) -> list[Points]:
    step = 2 * math.pi / part.teeth
    root = 0.8 - 0.05 * part.waist
    profile = ((-0.34, root), (-0.2, 1.0), (0.2, 1.0), (0.34, root))
    turns = np.array([[(tooth + turn) * step for turn, _ in profile] for tooth in range(part.teeth)]).ravel()
    radii = np.tile([radius for _, radius in profile], part.teeth)
    teeth = np.stack([np.cos(turns), np.sin(turns)], axis=1) * radii[:, None]
    return [teeth, _ring(0.2 + 0.14 * part.hole, _CIRCLE)]


_SHAPES: dict[str, Callable[[Part], list[Points]]] = {
    "bolt": _bolt,
    "nut": _nut,
    "washer": _washer,
    "gear": _gear,
}


def _ring(radius: float, corners: int) -> Points:
    turns = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    return radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)


def _place(part: Part, contours: Sequence[Points]) -> list[Points]:
    cos, sin = math.cos(part.angle), math.sin(part.angle)
    turn = part.radius * np.array([[cos, sin], [-sin, cos]])
    return [points @ turn + (part.x, part.y) for points in contours]


# -- what is painted on a shape -------------------------------------------------------------------


@dataclass(frozen=True)
class _Brush:
    canvas: Pixels
    part: Part
    scale: int
    light: float

    def lines(self, strokes: Sequence[Points], tone: float, width: float, *, closed: bool = False) -> None:
        """Strokes given in units of the radius; the width in frame pixels."""
        points = [_fixed(stroke, self.scale) for stroke in _place(self.part, strokes)]
        thickness = max(1, round(width * self.scale))
        cv2.polylines(self.canvas, points, closed, _shade(self.part, tone), thickness, cv2.LINE_AA, _SHIFT)

    def glint(self, radius: float, tone: float, width: float) -> None:
        """Draw an arc that faces the light."""
        turns = np.linspace(-0.9, 0.9, 12) + self.light - self.part.angle
        self.lines([radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)], tone, width)


def _detail_bolt(brush: _Brush) -> None:
    part = brush.part
    head, thin, wide = -0.62 + 0.1 * part.hole, 0.17 + 0.05 * part.waist, 0.36 + 0.08 * part.waist
    start = head + 0.1 + 0.5 * part.hole
    threads = np.linspace(start, 0.92, part.teeth)
    brush.lines([np.array([(x, -thin), (x + 0.03, thin)]) for x in threads], 0.6, 0.8)
    edge = 0.42 * wide
    brush.lines([np.array([(-0.96, y), (head, y)]) for y in (-edge, edge)], 0.7, 0.9)
    brush.lines([np.array([(head, -wide), (head, wide)])], 0.5, 1.0)
    side = -0.3 if math.sin(brush.light - part.angle) < 0 else 0.3
    brush.lines([np.array([(head + 0.05, side * thin), (0.9, side * thin)])], 1.35, 1.0)


def _detail_nut(brush: _Brush) -> None:
    hole = 0.46 + 0.1 * brush.part.hole
    brush.lines([_ring(hole * 1.09, _CIRCLE)], 0.55, 1.3, closed=True)
    brush.lines([_ring(0.84, _CIRCLE)], 1.15, 0.7, closed=True)
    brush.glint(0.84, 1.5, 1.2)


def _detail_washer(brush: _Brush) -> None:
    hole = 0.44 + 0.2 * brush.part.hole
    brush.lines([_ring(hole * 1.06, _CIRCLE)], 0.7, 0.8, closed=True)
    brush.glint((1 + hole) / 2, 1.35, 1.8)


def _detail_gear(brush: _Brush) -> None:
    hole = 0.2 + 0.14 * brush.part.hole
    brush.lines([_ring(0.66, _CIRCLE)], 0.7, 1.1, closed=True)
    brush.lines([_ring(hole * 1.3, _CIRCLE)], 0.75, 1.0, closed=True)
    brush.glint(0.6, 1.35, 1.2)


_DETAILS: dict[str, Callable[[_Brush], None]] = {
    "bolt": _detail_bolt,
    "nut": _detail_nut,
    "washer": _detail_washer,
    "gear": _detail_gear,
}


def _fixed(points: Points, scale: int) -> NDArray[np.int32]:
    # OpenCV's whole numbers are pixel middles, ours are pixel edges: hence the half.
    return np.rint((points * scale - 0.5) * (1 << _SHIFT)).astype(np.int32)


def _shade(part: Part, tone: float) -> Colour:
    lift = 14 * max(0.0, tone - 1)  # a highlight shows on black metal too
    blue, green, red = (min(255.0, value * tone + lift) for value in part.metal)
    return blue, green, red


def _scalar(colour: Colour | float) -> Colour:
    return colour if isinstance(colour, tuple) else (colour, colour, colour)
