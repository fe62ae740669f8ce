"""What a model found in one frame: frozen arrays, checked once when they are made.

One is made for every frame, and a struct costs a third of a dataclass.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from qzd_ext._arrays import freeze

__all__ = ["Classes", "Detections", "FloatArray", "IntArray"]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]


class Detections(Struct, frozen=True, eq=False, gc=False):
    """Boxes in one frame, best score first.

    Attributes
    ----------
    boxes : (n, 4) float32
        x0 y0 x1 y1 in pixels of the source frame, clipped to it: 0 <= x0 <= x1 <= width.
    scores : (n,) float32
        Confidence in 0..1, falling.
    class_ids : (n,) int32
        Indices into the bundle's label names.
    truncated : bool
        More boxes passed the thresholds than `max_detections` or `max_candidates` let through.
    """

    boxes: FloatArray
    scores: FloatArray
    class_ids: IntArray
    truncated: bool = False

    def __post_init__(self) -> None:
        n = len(self.scores)
        freeze("boxes", self.boxes, n, 4)
        freeze("scores", self.scores, n)
        freeze("class_ids", self.class_ids, n, whole=True)

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def empty(cls) -> Detections:
        """No boxes: arrays of shape (0, 4), (0,) and (0,)."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))


class Classes(Struct, frozen=True, eq=False, gc=False):
    """The best classes of one frame, best first.

    Attributes
    ----------
    scores : (k,) float32
        Probabilities in 0..1, falling; ties in the order of the class index.
    class_ids : (k,) int32
        Indices into the bundle's label names.
    """

    scores: FloatArray
    class_ids: IntArray

    def __post_init__(self) -> None:
        k = len(self.scores)
        freeze("scores", self.scores, k)
        freeze("class_ids", self.class_ids, k, whole=True)

    def __len__(self) -> int:
        return len(self.scores)
