from qzd_ext._nms import Candidates
from qzd_ext.detections import FloatArray

__all__ = ["scan_anchor", "scan_v5", "scan_v8_columns", "scan_v8_raw", "scan_v8_rows", "scan_x"]

def scan_v5(
    tensor: FloatArray, width: float, height: float, out: Candidates, confidence: float, every_label: bool
) -> None: ...
def scan_x(
    tensor: FloatArray, cells: FloatArray, out: Candidates, confidence: float, every_label: bool
) -> None: ...
def scan_anchor(
    tensor: FloatArray,
    anchors: FloatArray,
    width: float,
    height: float,
    scale_xy: float,
    channels_last: bool,
    first_index: int,
    out: Candidates,
    confidence: float,
    every_label: bool,
) -> None: ...
def scan_v8_rows(
    tensor: FloatArray, width: float, height: float, out: Candidates, confidence: float, every_label: bool
) -> None: ...
def scan_v8_columns(
    tensor: FloatArray, width: float, height: float, out: Candidates, confidence: float, every_label: bool
) -> None: ...
def scan_v8_raw(
    sides: FloatArray,
    classes: FloatArray | None,
    cells: FloatArray,
    bins: int,
    first_index: int,
    out: Candidates,
    confidence: float,
    every_label: bool,
) -> None: ...
