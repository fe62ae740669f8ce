from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qzd_ext.detections import FloatArray

__all__ = ["freeze", "readable"]

def readable(
    tensors: Sequence[FloatArray], shapes: list[tuple[int, ...]]
) -> Sequence[FloatArray] | None: ...
def freeze(
    name: str, array: npt.NDArray[np.generic], rows: int, columns: int = 0, whole: bool = False
) -> None: ...
