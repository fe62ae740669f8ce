from qzd_ext._nms import Candidates
from qzd_ext._place import Placement
from qzd_ext.detections import FloatArray

__all__ = ["scan_columns", "scan_final", "scan_objects", "scan_rows"]

def scan_objects(
    tensor: FloatArray,
    first: int,
    n: int,
    stride: int,
    step: int,
    classes: int,
    activation: int,
    root: bool,
    first_index: int,
    placement: Placement,
    out: Candidates,
    confidence: float,
    every_label: bool,
) -> None: ...
def scan_rows(
    scores: FloatArray,
    first: int,
    n: int,
    stride: int,
    depth: int,
    first_class: int,
    classes: int,
    activation: int,
    boxes: FloatArray,
    first_box: int,
    box_stride: int,
    box_step: int,
    first_index: int,
    placement: Placement,
    out: Candidates,
    confidence: float,
    every_label: bool,
) -> None: ...
def scan_columns(
    scores: FloatArray,
    first: int,
    n: int,
    classes: int,
    activation: int,
    boxes: FloatArray,
    first_box: int,
    box_stride: int,
    box_step: int,
    first_index: int,
    placement: Placement,
    out: Candidates,
    confidence: float,
    every_label: bool,
) -> None: ...
def scan_final(
    rows: FloatArray,
    score_column: int,
    label_column: int,
    box_columns: tuple[int, int, int, int],
    end_column: int,
    first_label: float,
    classes: int,
    placement: Placement,
    out: Candidates,
    confidence: float,
) -> float | None: ...
