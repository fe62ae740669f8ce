"""The results that a model announces, checked against what its manifest's head needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qzd_ext.detections import FloatArray
from qzd_ext.errors import ModelError
from qzd_ext.manifest import Manifest

__all__ = ["ModelOutputs", "kind_of"]


def kind_of(manifest: Manifest) -> str:
    """Return the head's name, as bundle.toml has it."""
    return str(type(manifest.head).__struct_config__.tag)


@dataclass(frozen=True, slots=True)
class ModelOutputs:
    """The shapes of a model's results, its manifest, and its priors if it has any."""

    manifest: Manifest
    shapes: tuple[tuple[int, ...], ...]
    priors: FloatArray | None

    @property
    def classes(self) -> int:
        """Number of names in the manifest."""
        return len(self.manifest.labels.names)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the input, in pixels."""
        return self.manifest.input.width, self.manifest.input.height

    @property
    def names(self) -> str:
        """The number of names, for messages."""
        return f"{self.classes} names"

    def unit(self, normalized: bool) -> tuple[float, float]:
        """Return the input pixels per unit of the boxes, along x and y."""
        return self.size if normalized else (1.0, 1.0)

    def length(self, tensor: int, axis: int) -> int | str:
        """Return the length of one axis of one result; N if there is no such axis."""
        shape = self.shapes[tensor] if tensor < len(self.shapes) else ()
        return shape[axis] if axis < len(shape) and shape[axis] > 0 else "N"

    def want(self, *shapes: tuple[int | str, ...], why: str = "") -> None:
        """Refuse other results than these; a letter stands for any length of 1 or more.

        Raises
        ------
        ModelError
            The shapes differ; the message names the head, the expected shapes and the shapes found.
        """
        if len(shapes) == len(self.shapes) and all(map(_fits, self.shapes, shapes)):
            return
        text = ", ".join("(" + ", ".join(map(str, shape)) + ")" for shape in shapes)
        raise self.refuse(
            f"the model's results are {', '.join(map(str, self.shapes)) or 'none'}",
            f"{text}{' with ' if why else ''}{why}",
        )

    def refuse(self, found: str, wanted: str) -> ModelError:
        """Return the error for a model that is not what its manifest says."""
        return ModelError(
            f"head {kind_of(self.manifest)}: {found}",
            wanted=wanted,
            fix="correct [head], [input] or [labels] of the manifest, or cut the model where its head begins",
        )

    def cells(self, strides: Sequence[int], boxes: int = 1) -> list[FloatArray]:
        """Return the (n, 3) float32 column, row and stride of every cell, row by row, for each stride.

        A grid covers the whole input, so a part of a cell at its end is a cell. Each cell is repeated for
        its `boxes`.
        """
        width, height = self.size
        grids = []
        for stride in strides:
            rows, columns = np.mgrid[: -(-height // stride), : -(-width // stride)]
            grid = np.stack([columns, rows, np.full_like(rows, stride)], -1).reshape(-1, 3)
            grids.append(np.repeat(grid.astype(np.float32), boxes, 0))
        return grids


def _fits(shape: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        (isinstance(b, str) and a > 0) or a == b for a, b in zip(shape, wanted, strict=True)
    )
