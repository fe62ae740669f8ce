"""How a photograph is to be turned: the orientation in the Exif data of a JPEG.

Source: JEITA CP-3451 (Exif), 4.5.4 and 4.6.4: an APP1 segment with a TIFF header and the tag 0x0112.
"""

from __future__ import annotations

import numpy as np

from qzd_ext.geometry import Frame

__all__ = ["jpeg_orientation", "turn"]

APP1, SCAN = 0xE1, 0xDA
EXIF = b"Exif\x00\x00"
ORIENTATION = 0x0112
UPRIGHT = 1


def jpeg_orientation(jpeg: bytes) -> int:
    """Return the orientation of a JPEG, 1 to 8; 1 if it states none."""
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF and jpeg[at + 1] != SCAN:
        length = int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if jpeg[at + 1] == APP1 and jpeg[at + 4 : at + 10] == EXIF:
            return _read_tag(jpeg[at + 10 : at + 2 + length])
        at += 1 if jpeg[at + 1] == 0xFF else 2 + length
    return UPRIGHT


def _read_tag(tiff: bytes) -> int:
    order = {b"II": "little", b"MM": "big"}.get(tiff[:2])
    if order is None:
        return UPRIGHT

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)  # type: ignore[arg-type]

    directory = number(4, 4)
    for entry in range(directory + 2, directory + 2 + 12 * min(number(directory, 2), 256), 12):
        if number(entry, 2) == ORIENTATION:
            value = number(entry + 8, 2)
            return value if 1 <= value <= 8 else UPRIGHT
    return UPRIGHT


def turn(frame: Frame, orientation: int) -> Frame:
    """Return a picture as it is to be shown.

    Parameters
    ----------
    frame : (h, w, 3) uint8
    orientation : int
        1 to 8, as Exif counts.

    Returns
    -------
    (h, w, 3) or (w, h, 3) uint8, C-contiguous
    """
    if orientation > 4:
        frame = frame.transpose(1, 0, 2)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(frame[::rows, ::columns])
