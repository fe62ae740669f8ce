import numpy as np
import numpy.typing as npt

from qzd_ext.detections import FloatArray, IntArray

__all__ = ["Candidates", "nms"]

class Candidates:
    def __init__(
        self,
        classes: int,
        iou: float,
        diou: bool,
        agnostic: bool,
        max_candidates: int,
        max_detections: int,
        parts: int = 1,
    ) -> None: ...
    @property
    def invalid(self) -> int: ...
    @property
    def truncated(self) -> bool: ...
    def __len__(self) -> int: ...
    def set_floors(self, floors: FloatArray) -> None: ...
    def extend(self, boxes: FloatArray, scores: FloatArray, class_ids: IntArray) -> None: ...
    def indices(self) -> npt.NDArray[np.int64]: ...
    def arrays(
        self, width: float, height: float, scale_x: float, scale_y: float, offset_x: float, offset_y: float
    ) -> tuple[FloatArray, FloatArray, IntArray]: ...

def nms(
    boxes: FloatArray,
    scores: FloatArray,
    class_ids: IntArray,
    *,
    iou: float,
    diou: bool = False,
    agnostic: bool = False,
    max_candidates: int = 2**31 - 1,
    max_detections: int = 2**31 - 1,
) -> npt.NDArray[np.int64]: ...
