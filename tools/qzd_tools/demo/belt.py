"""The conveyor belt: its colour, its texture, and what is on it beside parts.

Here lives only the background. Parts are parts.py's; light, blur and noise are scene.py's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["new_belt"]

Texture = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Colour = tuple[float, float, float]

_COLOURS = (  # BGR: rubber, black, green, blue, grey, canvas, red
    (52, 56, 50),
    (40, 40, 42),
    (78, 92, 60),
    (104, 84, 62),
    (128, 130, 126),
    (150, 164, 172),
    (70, 70, 88),
)


def new_belt(rng: np.random.Generator, height: int, length: int) -> Pixels:
    """Paint a strip of belt that may be repeated along x.

    Parameters
    ----------
    rng : numpy.random.Generator
    height, length : int
        Pixels across the belt and along it.

    Returns
    -------
    (height, length, 3) uint8, BGR
    """
    texture = _grain(rng, height, length)
    texture += _PATTERNS[int(rng.integers(len(_PATTERNS)))](rng, height, length)
    index = int(rng.integers(len(_COLOURS)))
    bright = rng.uniform(0.8, 1.2)
    colour = [level * bright for level in _COLOURS[index]]
    shades = [cv2.convertScaleAbs(np.maximum(texture, np.float32(-level)), beta=level) for level in colour]
    strip = np.asarray(cv2.merge(shades), np.uint8)
    for _ in range(int(rng.integers(0, 4))):
        _stain(rng, strip)
    for _ in range(int(rng.integers(0, 9) * length / 320)):
        _scratch(rng, strip)
    return strip


def _grain(rng: np.random.Generator, height: int, length: int) -> Texture:
    grain = np.zeros((height, length), np.float32)
    for cell, strength in ((2, rng.uniform(0, 5)), (7, rng.uniform(0, 5)), (40, rng.uniform(0, 8))):
        noise = rng.standard_normal((height // cell + 2, length // cell + 2), dtype=np.float32)
        grain += np.float32(strength) * cv2.resize(noise, (length, height), interpolation=cv2.INTER_LINEAR)
    return grain


def _plain(_: np.random.Generator, height: int, length: int) -> Texture:
    return np.zeros((height, length), np.float32)


def _ribs(rng: np.random.Generator, height: int, length: int) -> Texture:
    step, width = int(rng.integers(14, 60)), int(rng.integers(1, 5))
    depth = rng.uniform(8, 26) * rng.choice((-1, 1))
    row = np.where(np.arange(length) % step < width, depth, 0.0).astype(np.float32)
    return np.repeat(row[None], height, axis=0)


def _grooves(rng: np.random.Generator, height: int, length: int) -> Texture:
    return np.ascontiguousarray(_ribs(rng, length, height).T)


def _weave(rng: np.random.Generator, height: int, length: int) -> Texture:
    pitch, depth = rng.uniform(5, 12), rng.uniform(4, 12)
    across = np.sin(np.arange(height, dtype=np.float32) * np.float32(2 * math.pi / pitch))
    along = np.sin(np.arange(length, dtype=np.float32) * np.float32(2 * math.pi / pitch))
    woven: Texture = np.float32(depth) * across[:, None] * along
    return woven


_PATTERNS: tuple[Callable[[np.random.Generator, int, int], Texture], ...] = (_plain, _ribs, _grooves, _weave)


def _tone(rng: np.random.Generator, strip: Pixels, x: int, y: int, change: float) -> Colour:
    blue, green, red = np.clip(strip[y, x] + change * rng.uniform(0.5, 1.0), 0, 255).tolist()
    return blue, green, red


def _point(rng: np.random.Generator, strip: Pixels) -> tuple[int, int]:
    return int(rng.integers(strip.shape[1])), int(rng.integers(strip.shape[0]))


def _scratch(rng: np.random.Generator, strip: Pixels) -> None:
    x, y = _point(rng, strip)
    turns = np.cumsum(rng.uniform(-0.35, 0.35, 6)) + rng.uniform(0, 2 * math.pi)
    steps = rng.uniform(4, 22) * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    points = np.rint((np.cumsum(steps, axis=0) + np.array([x, y])) * 16).astype(np.int32)
    colour = _tone(rng, strip, x, y, float(rng.choice((-45, 70))))
    cv2.polylines(strip, [points], False, colour, int(rng.integers(1, 3)), cv2.LINE_AA, 4)


def _stain(rng: np.random.Generator, strip: Pixels) -> None:
    x, y = _point(rng, strip)
    axes = (int(rng.integers(4, 30)), int(rng.integers(4, 22)))
    colour = _tone(rng, strip, x, y, float(rng.choice((-16, 14))))
    thickness = -1 if rng.random() < 0.7 else int(rng.integers(1, 3))  # a drop, or the ring a cup leaves
    cv2.ellipse(strip, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, colour, thickness, cv2.LINE_AA)
