"""Images that strangers send: their size is read and checked before anything is decoded or allocated.

Sources: ISO/IEC 15948 (PNG) for chunks, ITU-T T.81 (JPEG) for markers and frame headers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from qzd_ext.errors import UsageError
from qzd_ext.geometry import Frame

__all__ = ["NotAnImageError", "TooLargeError", "check_png", "read_image"]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_START = PNG_SIGNATURE + b"\x00\x00\x00\x0dIHDR"
PNG_AROUND = 12  # bytes of a chunk beside its content: length, type, checksum
PNG_ANIMATION, PNG_END = b"acTL", b"IEND"
JPEG_START = b"\xff\xd8"
JPEG_SCAN = b"\xff\xda"
JPEG_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_SEGMENTS = {0xC4, 0xCC, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE}  # what may come before a frame
MAX_SCANS = 100  # of a progressive JPEG: each one more is a pass over all pixels


class NotAnImageError(UsageError):
    """The bytes are not an image of the format that was stated."""

    code = "not_an_image"


class TooLargeError(UsageError):
    """An image, or a field, is larger than the daemon takes."""

    code = "too_large"


@dataclass(frozen=True, slots=True)
class _Size:
    width: int
    height: int


def read_image(
    form: Literal["jpeg", "png", "bgr"],
    data: bytes | memoryview,
    width: int | None,
    height: int | None,
    max_pixels: int,
) -> Frame:
    """An image as a frame, as `cv2.imread` gives it for a file.

    Parameters
    ----------
    form : "jpeg", "png" or "bgr"
    data : bytes or memoryview
    width, height : int or None
        In pixels; for bgr alone.
    max_pixels : int
        Largest width times height.

    Returns
    -------
    (h, w, 3) uint8, BGR

    Raises
    ------
    TooLargeError
        It has more pixels. Nothing was decoded.
    NotAnImageError
        It cannot be decoded.
    """
    if form == "bgr":
        return _raw(data, width, height, max_pixels)
    size = _png_size(data) if form == "png" else _jpeg_size(data)
    _check_size(size, max_pixels)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise _not_one(form, str(error.err)) from error
    if image is None:
        raise _not_one(form, "it is damaged")
    if sorted(image.shape[:2]) != sorted((size.width, size.height)):  # a photograph may be turned
        raise _not_one(form, f"it says that it is {size.width}x{size.height}, and is not")
    return np.asarray(image, np.uint8)


def _raw(data: bytes | memoryview, width: int | None, height: int | None, max_pixels: int) -> Frame:
    if width is None or height is None:
        raise NotAnImageError("bgr without a size", wanted="width and height in the header")
    _check_size(_Size(width, height), max_pixels)
    if len(data) != width * height * 3:
        raise NotAnImageError(
            f"bgr of {width}x{height} with {len(data)} bytes", wanted=f"{width * height * 3} bytes"
        )
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _check_size(size: _Size, max_pixels: int) -> None:
    if size.width * size.height > max_pixels:
        raise TooLargeError(
            f"the image is {size.width}x{size.height}",
            wanted=f"at most {max_pixels} pixels",
            fix="send a smaller one, or raise max_pixels",
        )


def _png_size(data: bytes | memoryview) -> _Size:
    head = bytes(data[:24])
    if len(head) < 24 or not head.startswith(PNG_START):
        raise _not_one("png", "it does not begin as one")
    check_png(data)
    return _Size(int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big"))


def check_png(data: bytes | memoryview) -> None:
    """See that a PNG's chunks lie within it, before OpenCV sees it.

    OpenCV's reader takes memory for a chunk by the length that the chunk states, which may be 4 GiB in a
    file of 200 bytes; and for the frames of an animation by sizes of their own. What does not begin as a
    PNG passes.

    Raises
    ------
    NotAnImageError
        A chunk is not all there, or the PNG is animated.
    """
    if bytes(data[: len(PNG_SIGNATURE)]) != PNG_SIGNATURE:
        return
    at = len(PNG_SIGNATURE)
    kind = b""
    while at < len(data) and kind != PNG_END:
        length, kind = int.from_bytes(data[at : at + 4], "big"), bytes(data[at + 4 : at + 8])
        if kind == PNG_ANIMATION:
            raise _not_one("png", "it is animated")
        at += length + PNG_AROUND
        if at > len(data):
            raise _not_one("png", f"its chunk {kind!r} of {length} bytes is not all there")


def _jpeg_size(data: bytes | memoryview) -> _Size:
    """The size in the frame header; segments before it are passed over by their length.

    What else libjpeg would pass over, or end with, ends it here: or the two would not see the same header.
    """
    if bytes(data[:2]) != JPEG_START:
        raise _not_one("jpeg", "it does not begin as one")
    if bytes(data).count(JPEG_SCAN) > MAX_SCANS:
        raise TooLargeError("the jpeg has too many scans", wanted=f"at most {MAX_SCANS}")
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in JPEG_FRAMES:
            return _Size(
                int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
            )
        if marker == 0xFF:  # fill
            at += 1
        elif marker in JPEG_ALONE:
            at += 2
        elif marker in JPEG_SEGMENTS:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        else:
            break
    raise _not_one("jpeg", "it has no frame header")


def _not_one(form: str, why: str) -> NotAnImageError:
    return NotAnImageError(f"this is no {form} image: {why}", wanted=f"the bytes of a {form} file")
