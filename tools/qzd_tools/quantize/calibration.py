"""The images that activations are measured on: chosen, checked and fingerprinted."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qzd_ext.errors import DataError, UsageError
from qzd_ext.geometry import Frame, prepare
from qzd_ext.manifest import Input
from qzd_tools.data.images import combined_digest, content_hashes, read_image

__all__ = ["FEW", "LEAST", "Calibration", "Prepare", "choose", "hold_out", "kept", "overlap", "preparer"]

LEAST = 3
"""Images below which ranges of activations are no more than an accident."""

FEW = 100
"""Images below which it is said that more would be better."""


ENOUGH_TO_CHOOSE = 80
"""Images from which on a quarter of them tells candidates apart."""

KEPT_BYTES = 512 * 2**20
"""Prepared images that are kept in memory, since NNCF goes through them several times."""

Prepare = Callable[[Path], Frame]
"""From an image file to the model's input, (1, height, width, 3) uint8."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Images and the hashes of their contents, in the same order."""

    images: tuple[Path, ...]
    hashes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Hex sha256 over the sorted hashes."""
        return combined_digest(self.hashes)


def choose(
    images: Sequence[Path], subset_size: int, seed: int, prepare: Prepare = read_image
) -> Calibration:
    """At most `subset_size` of the images, drawn with a seed, in the order they came in.

    Each is prepared once, so that one that is not an image is found before the work begins.

    Raises
    ------
    DataError
        There are too few, or one cannot be read.
    """
    chosen = list(images)
    if len(chosen) > subset_size:
        drawn = np.random.default_rng(seed).choice(len(chosen), subset_size, replace=False)
        chosen = [chosen[i] for i in sorted(drawn)]
    for path in chosen:
        prepare(path)
    if len(chosen) < LEAST:
        raise DataError(
            f"{len(chosen)} images to calibrate with",
            wanted=f"at least {LEAST}, better some 300, like those that the model will see",
            fix="name a directory with more images, or choose --mode int8-weights, which needs none",
        )
    return Calibration(tuple(chosen), tuple(content_hashes(chosen)))


def hold_out(calibration: Calibration) -> tuple[Calibration, tuple[Path, ...]]:
    """Set every fourth image apart, to choose on what was not calibrated with; none if they are few."""
    if len(calibration.images) < ENOUGH_TO_CHOOSE:
        return calibration, ()
    kept = [i for i in range(len(calibration.images)) if i % 4]
    images, hashes = calibration.images, calibration.hashes
    fitted = Calibration(tuple(images[i] for i in kept), tuple(hashes[i] for i in kept))
    return fitted, images[::4]


def preparer(spec: Input) -> Prepare:
    """Make what lays an image into the model's input exactly as at run time."""

    def prepared(path: Path) -> Frame:
        out = np.empty((1, spec.height, spec.width, 3), np.uint8)
        prepare(read_image(path), spec, out[0])
        return out

    return prepared


def kept(prepare: Prepare, spec: Input) -> Prepare:
    """Decode each image once, if all of them fit into `KEPT_BYTES`."""
    return functools.lru_cache(KEPT_BYTES // (spec.height * spec.width * 3))(prepare)


def overlap(calibration: Calibration, validation: Sequence[Path], *, allowed: bool) -> str:
    """Compare the two sets by content.

    Returns
    -------
    str
        What they share, as a sentence; empty where they share nothing.

    Raises
    ------
    UsageError
        They share images, and that is not allowed.
    """
    hashes = dict(zip(content_hashes(validation), validation, strict=True))
    pairs = zip(calibration.images, calibration.hashes, strict=True)
    shared = [(path, hashes[content]) for path, content in pairs if content in hashes]
    if not shared:
        return ""
    first = ", ".join(str(path) if path == same else f"{path} = {same}" for path, same in shared[:3])
    count = f"{len(shared)} of {len(calibration.images)}"
    found = f"{count} calibration images are validation images too: {first}"
    if not allowed:
        raise UsageError(
            found,
            wanted="sets that share no image: accuracy on images that the model was fitted to says little",
            fix="take other images to calibrate with, or pass --allow-overlap",
        )
    return found
