from typing import final

from qzd_ext.detections import FloatArray

__all__ = ["Placement"]

@final
class Placement:
    channels: int
    boxes: int
    @staticmethod
    def center(width: float, height: float) -> Placement: ...
    @staticmethod
    def corners(width: float, height: float) -> Placement: ...
    @staticmethod
    def offsets(cells: FloatArray) -> Placement: ...
    @staticmethod
    def distributions(cells: FloatArray, bins: int, offset: float) -> Placement: ...
    @staticmethod
    def distances(cells: FloatArray, offset: float, pixels: bool) -> Placement: ...
    @staticmethod
    def anchor(
        columns: int,
        width: float,
        height: float,
        anchor_width: float,
        anchor_height: float,
        scale_xy: float,
        v5: bool,
    ) -> Placement: ...
    @staticmethod
    def codes(
        priors: FloatArray,
        scales: tuple[float, float, float, float],
        width: float,
        height: float,
        x_first: bool,
        linear: bool,
    ) -> Placement: ...
