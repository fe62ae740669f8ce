from qzd_ext._nms import Candidates
from qzd_ext.detections import FloatArray

__all__ = ["scan_boxes", "scan_ssd"]

def scan_boxes(
    rows: FloatArray,
    label_column: int,
    score_column: int,
    box_column: int,
    end_column: int,
    width: float,
    height: float,
    first_label: int,
    classes: int,
    out: Candidates,
    confidence: float,
) -> float | None: ...
def scan_ssd(
    codes: FloatArray,
    scores: FloatArray,
    priors: FloatArray,
    scales: tuple[float, ...],
    width: float,
    height: float,
    activation: int,
    background: bool,
    out: Candidates,
    confidence: float,
    every_label: bool,
) -> None: ...
