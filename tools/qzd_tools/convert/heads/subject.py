"""What a recogniser looks at: a graph, its picture, and what is known of it already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import openvino as ov

from qzd_tools.convert.facts import Facts

__all__ = ["Subject", "is_rows", "shape_of"]

STRIDES = (
    (8, 16, 32), (16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (8, 16), (8,), (16,), (32,), (4,), (4, 8),
    (4, 8, 16),
)  # fmt: skip
"""Of the grids that anchor-free detectors have, usual ones first."""


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """What a recogniser looks at.

    Attributes
    ----------
    model : ov.Model
    width, height : int
        Of the model's picture, in pixels.
    facts : Facts
        From flags and metadata.
    asked : str or None
        The head that a person named; its recogniser then looks at shapes alone.
    """

    model: ov.Model
    width: int
    height: int
    facts: Facts
    asked: str | None = None

    @property
    def only_output(self) -> ov.Output | None:
        """The tensor behind the model's result; None where it has several.

        Results of whole numbers do not count: TensorFlow's classifiers give their best class beside the
        scores.
        """
        results = [r.input_value(0) for r in self.model.get_results()]
        floats = [r for r in results if r.get_element_type().is_real()]
        return floats[0] if len(floats) == 1 else None

    @property
    def outputs(self) -> list[ov.Output]:
        """The tensors behind the model's results."""
        return [r.input_value(0) for r in self.model.get_results()]

    def cells(self, strides: Sequence[int]) -> int:
        """Cells of the grids of these strides, all together; a part of a cell at the end is a cell."""
        return sum(-(-self.height // s) * -(-self.width // s) for s in strides)

    def cell_centres(self, strides: Sequence[int]) -> npt.NDArray[np.float64]:
        """Centres x y of all cells, row by row, in input pixels: (N, 2)."""
        parts = []
        for stride in strides:
            y, x = np.mgrid[: -(-self.height // stride), : -(-self.width // stride)]
            parts.append((np.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride)
        return np.concatenate(parts)

    def grids(self, cells: int) -> tuple[int, ...] | None:
        """The strides whose grids have that many cells."""
        return next((s for s in STRIDES if self.cells(s) == cells), None)


def shape_of(output: ov.Output) -> tuple[int, ...]:
    """A static shape; empty where it is not."""
    return tuple(output.shape) if output.partial_shape.is_static else ()


def is_rows(output: ov.Output | None) -> bool:
    """Whether an output is [1, rows, columns]."""
    return output is not None and len(shape_of(output)) == 3 and shape_of(output)[0] == 1
