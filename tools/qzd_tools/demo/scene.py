"""Parts on a conveyor belt: pictures of a made-up factory together with the truth about them.

Here lives the scene: where parts lie, what hides what, what the camera adds, and the boxes of what is seen.
Only NumPy and OpenCV are used; no file is written here (dataset.py does) and nothing is known of models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from qzd_tools.demo.belt import new_belt
from qzd_tools.demo.parts import LABELS, Part, area, draw, fill, new_part, outline

__all__ = ["LABELS", "Frame", "moving", "still"]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

_SIZES = ((240, 320), (240, 320), (256, 320), (270, 360), (240, 384))  # of stills: height, width
_FINE = 2  # the picture is painted at twice its size
_MASK = 4  # what is visible is decided in quarters of a pixel
_LEAST_VISIBLE = 0.35  # of a part's area; less is not labelled
_SPEED = 3  # of a moving belt, pixels a frame


@dataclass(frozen=True)
class Frame:
    """A picture and what is to be seen in it.

    Attributes
    ----------
    pixels : (h, w, 3) uint8, BGR
    boxes : (n, 4) float32
        x0, y0, x1, y1 in pixels of the frame, inside it, tight to what is visible of each part.
    classes : (n,) int64
        Index into ``LABELS``.
    areas : (n,) float32
        Visible area of each part in square pixels.
    """

    pixels: Pixels
    boxes: Floats
    classes: NDArray[np.int64]
    areas: Floats


def still(seed: int, index: int) -> Frame:
    """Picture number ``index`` of the endless series ``seed``; sizes vary.

    Parameters
    ----------
    seed, index : int
        Not negative. The same pair gives the same picture; another pair gives another.
    """
    rng = np.random.default_rng([seed, index])
    height, width = _SIZES[int(rng.integers(len(_SIZES)))]
    return _render(_new_scene(rng, height, width, width, int(rng.integers(1, 10))), 0, rng)


def moving(seed: int, frames: int, height: int = 240, width: int = 320) -> Iterator[Frame]:
    """Yield the pictures of a running belt, 3 pixels further each.

    Parameters
    ----------
    seed : int
        Not negative. The same seed gives the same pictures.
    frames : int
        How many.
    height, width : int
        Pixels.
    """
    rng = np.random.default_rng([seed])
    length = width + _SPEED * frames
    scene = _new_scene(rng, height, width, length, round(6.5 * length / width))
    for number in range(frames):
        yield _render(scene, number * _SPEED, np.random.default_rng([seed, number]))


@dataclass(frozen=True)
class _Scene:
    belt: Pixels
    parts: tuple[Part, ...]  # the later ones lie on top
    light: float  # direction, radians
    gain: Floats  # (h, w, 3): light and white balance
    blur: float  # sigma, pixels
    streak: int  # pixels the belt moves while the shutter is open
    noise: float  # sigma, grey levels
    rail: int  # height of the belt's edge in pixels, 0 for none

    @property
    def size(self) -> tuple[int, int]:
        return self.gain.shape[0], self.gain.shape[1]


def _new_scene(rng: np.random.Generator, height: int, width: int, length: int, parts: int) -> _Scene:
    belt = new_belt(rng, height, width)
    return _Scene(
        belt=belt,
        parts=_scatter(rng, height, length, parts, float(belt.mean())),
        light=float(rng.uniform(0, 2 * math.pi)),
        gain=_gain(rng, height, width),
        blur=float(rng.choice((0.0, rng.uniform(0.3, 0.9)))),
        streak=int(rng.integers(1, 4)),
        noise=float(rng.uniform(1.0, 6.0)),
        rail=int(rng.choice((0, 0, int(rng.integers(5, 14))))),
    )


def _scatter(rng: np.random.Generator, height: int, length: int, count: int, luma: float) -> tuple[Part, ...]:
    parts: list[Part] = []
    for _ in range(4 * count):
        if len(parts) == count:
            break
        x, y = rng.uniform(-10, length + 10), rng.uniform(-5, height + 5)
        part = new_part(rng, float(x), float(y), height / 240, luma)
        room = 0.45 if rng.random() < 0.3 else 0.85  # some may lie over others
        if all(_apart(part, other, room) for other in parts):
            parts.append(part)
    return tuple(parts)


def _apart(one: Part, other: Part, room: float) -> bool:
    return math.hypot(one.x - other.x, one.y - other.y) > room * (one.radius + other.radius)


def _gain(rng: np.random.Generator, height: int, width: int) -> Floats:
    across = np.linspace(-1, 1, 9, dtype=np.float32)
    turn, slope, fall = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.3), rng.uniform(0, 0.14)
    tilt = slope * (math.cos(turn) * across[None] + math.sin(turn) * across[:, None])
    coarse = rng.uniform(0.75, 1.25) * (1 + tilt - fall * (across[None] ** 2 + across[:, None] ** 2))
    tinted = (coarse[..., None] * rng.uniform(0.93, 1.07, 3)).astype(np.float32)
    return np.asarray(cv2.resize(tinted, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


# -- one picture ----------------------------------------------------------------------------------


def _render(scene: _Scene, offset: int, rng: np.random.Generator) -> Frame:
    height, width = scene.size
    parts = [replace(part, x=part.x - offset) for part in scene.parts if -60 < part.x - offset < width + 60]
    fine = cv2.resize(_ground(scene, parts, offset), None, fx=_FINE, fy=_FINE, interpolation=cv2.INTER_LINEAR)
    painted: Pixels = np.asarray(fine, np.uint8)
    for part in parts:
        draw(painted, part, _FINE, scene.light)
    sharp = np.asarray(cv2.resize(painted, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return Frame(_expose(scene, sharp, rng), *_truth(parts, height, width))


def _ground(scene: _Scene, parts: list[Part], offset: int) -> Pixels:
    height, width = scene.size
    ground = np.roll(scene.belt, -offset, axis=1)
    if scene.rail:
        ground[: scene.rail] = ground[height - scene.rail :] = (148, 150, 146)
    shadow = np.zeros((height, width), np.uint8)
    for part in parts:
        x, y = 0.14 * part.radius * math.cos(scene.light), 0.14 * part.radius * math.sin(scene.light)
        fill(shadow, outline(replace(part, x=part.x - x, y=part.y - y)), 110, 1)
    soft = cv2.cvtColor(255 - cv2.blur(shadow, (5, 5)), cv2.COLOR_GRAY2BGR)
    return np.asarray(cv2.multiply(ground, soft, scale=1 / 255), np.uint8)


def _expose(scene: _Scene, sharp: Pixels, rng: np.random.Generator) -> Pixels:
    seen = cv2.blur(sharp, (scene.streak, 1)) if scene.streak > 1 else sharp
    if scene.blur:
        seen = cv2.GaussianBlur(seen, (5, 5), scene.blur)
    noise = rng.standard_normal(seen.shape, dtype=np.float32)
    lit = cv2.multiply(seen, scene.gain, dtype=cv2.CV_32F)
    return np.asarray(cv2.scaleAdd(noise, scene.noise, lit).clip(0, 255), np.uint8)


def _truth(parts: list[Part], height: int, width: int) -> tuple[Floats, NDArray[np.int64], Floats]:
    owner = np.zeros((height * _MASK, width * _MASK), np.uint8)
    contours = [outline(part) for part in parts]
    for number, shape in enumerate(contours, start=1):
        fill(owner, shape, number, _MASK, smooth=False)
    boxes, classes, areas = [], [], []
    for number, (part, shape) in enumerate(zip(parts, contours, strict=True), start=1):
        box, visible = _visible(owner, number, shape[0])
        if visible >= _LEAST_VISIBLE * area(shape):
            boxes.append(box)
            classes.append(part.kind)
            areas.append(visible)
    return (
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(classes, np.int64),
        np.array(areas, np.float32),
    )


def _visible(owner: Pixels, number: int, contour: NDArray[np.float64]) -> tuple[list[float], float]:
    low = np.maximum(np.floor(contour.min(axis=0) * _MASK).astype(int) - 1, 0)
    high = np.maximum(np.ceil(contour.max(axis=0) * _MASK).astype(int) + 2, 0)
    mine = owner[low[1] : high[1], low[0] : high[0]] == number
    if not mine.any():
        return [0.0, 0.0, 0.0, 0.0], 0.0
    columns, rows = np.flatnonzero(mine.any(axis=0)) + low[0], np.flatnonzero(mine.any(axis=1)) + low[1]
    box = [columns[0] / _MASK, rows[0] / _MASK, (columns[-1] + 1) / _MASK, (rows[-1] + 1) / _MASK]
    return box, float(np.count_nonzero(mine)) / _MASK**2
