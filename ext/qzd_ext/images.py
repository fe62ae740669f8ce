"""Images that strangers send: their size is read and checked before anything is decoded or allocated.

Sources: ISO/IEC 15948 (PNG) for chunks, ITU-T T.81 (JPEG) for markers and frame headers.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import simplejpeg

from qzd_client.requests import ImageFormat
from qzd_ext.errors import UsageError
from qzd_ext.exif import jpeg_orientation, turn
from qzd_ext.geometry import Frame

__all__ = ["NotAnImageError", "TooLargeError", "check_png", "frame_bytes", "read_image"]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_START = PNG_SIGNATURE + b"\x00\x00\x00\x0dIHDR"
PNG_AROUND = 12  # bytes of a chunk beside its content: length, type, checksum
PNG_ANIMATION, PNG_DATA, PNG_END = b"acTL", b"IDAT", b"IEND"
PNG_DECODED = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", PNG_DATA, PNG_END)
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
PNG_PASSES = (  # of an interlaced one: the first column and row, and the steps to the next
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
PNG_SLACK = 1 << 16  # bytes that an encoder may leave behind the last row
PIECE = 1 << 14
MAX_RATIO = 1032  # of deflate: RFC 1951's longest match takes two bits
JPEG_START = b"\xff\xd8"
JPEG_SCAN = b"\xff\xda"
JPEG_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_SEGMENTS = {0xC4, 0xCC, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE}  # what may come before a frame
MAX_SCANS = 100  # of a progressive JPEG: each one is a pass over all pixels
MAX_SCANNED_PIXELS = 800_000_000  # in all scans together: about ten seconds
MAX_SEGMENTS = 4096  # before the frame header; a colour profile may have 255
_FILL = re.compile(b"\xff*")


class NotAnImageError(UsageError):
    """The bytes are not an image of the format that they claim."""

    code = "not_an_image"


class TooLargeError(UsageError):
    """An image, or a field, is larger than the limit."""

    code = "too_large"


@dataclass(frozen=True, slots=True)
class _Size:
    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


def read_image(
    form: ImageFormat,
    data: bytes | memoryview,
    width: int | None,
    height: int | None,
    max_pixels: int,
) -> Frame:
    """Decode an image into a frame, as `cv2.imread` does for a file.

    Parameters
    ----------
    form : "jpeg", "png" or "bgr"
    data : bytes or memoryview
    width, height : int or None
        In pixels; only for bgr.
    max_pixels : int
        Largest width times height.

    Returns
    -------
    (h, w, 3) uint8, BGR

    Raises
    ------
    TooLargeError
        It has more pixels, or decoding it takes too much work. Nothing was decoded.
    NotAnImageError
        It cannot be decoded.
    """
    if form == "bgr":
        return _raw(data, width, height, max_pixels)
    size = _png_size(data) if form == "png" else _jpeg_size(data)
    _check_size(size, max_pixels)
    _check_work(form, data, size)
    image = _decode_png(data) if form == "png" else _decode_jpeg(bytes(data))
    if sorted(image.shape[:2]) != sorted((size.width, size.height)):  # a photograph may be turned
        raise _not_one(form, f"it says that it is {size.width}x{size.height}, and is not")
    return image


def _decode_jpeg(data: bytes) -> Frame:
    """Decode a JPEG, and refuse one that libjpeg warns of: what it decodes then is partly made up.

    OpenCV prints the warnings and goes on; it decodes CMYK, which libjpeg does not convert.
    """
    try:
        if simplejpeg.decode_jpeg_header(data)[2] in ("CMYK", "YCCK"):
            simplejpeg.decode_jpeg(data, "CMYK")
            return _decode("jpeg", data)
        return turn(simplejpeg.decode_jpeg(data, "BGR"), jpeg_orientation(data))
    except ValueError as error:
        raise _not_one("jpeg", f"it is damaged: {error}") from error


def _decode_png(data: bytes | memoryview) -> Frame:
    """Decode a PNG without the chunks that do not matter to its pixels: libpng prints warnings of them."""
    _check_sums(data)
    chunks = [data[at - 8 : at + length + 4] for kind, at, length in _chunks(data) if kind in PNG_DECODED]
    return _decode("png", b"".join((PNG_SIGNATURE, *chunks)))


def _decode(form: Literal["jpeg", "png"], data: bytes) -> Frame:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise _not_one(form, str(error.err)) from error
    if image is None:
        raise _not_one(form, "it is damaged")
    return np.asarray(image, np.uint8)


def frame_bytes(form: Literal["jpeg", "png", "bgr"], data: bytes | memoryview) -> int:
    """Return how many bytes decoding an image takes; 0 for bgr, which is used where it lies.

    Raises
    ------
    NotAnImageError
        It does not begin as an image of this format.
    """
    if form == "bgr":
        return 0
    return 3 * (_png_size(data) if form == "png" else _jpeg_size(data)).pixels


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
    if size.pixels > max_pixels:
        raise TooLargeError(
            f"the image is {size.width}x{size.height}",
            wanted=f"at most {max_pixels} pixels",
            fix="send a smaller one, or raise max_pixels",
        )


def _check_work(form: Literal["jpeg", "png"], data: bytes | memoryview, size: _Size) -> None:
    """Refuse an image that costs far more than its pixels do."""
    if form == "png":
        _check_inflation(data)
        return
    scans = bytes(data).count(JPEG_SCAN)
    if scans > MAX_SCANS or scans * size.pixels > MAX_SCANNED_PIXELS:
        raise TooLargeError(
            f"the jpeg of {size.width}x{size.height} has {scans} scans",
            wanted=f"at most {MAX_SCANS}, and {MAX_SCANNED_PIXELS} pixels in all of them",
            fix="send it as a baseline jpeg",
        )


def _check_inflation(png: bytes | memoryview) -> None:
    """Check that a PNG's data inflates to its rows and not to gigabytes.

    libpng inflates all of it, also what follows the last row.
    """
    data = [(at, at + length) for kind, at, length in _chunks(png) if kind == PNG_DATA]
    rows = _raw_bytes(bytes(png[16:29]))
    most = rows + PNG_SLACK
    if sum(end - start for start, end in data) * MAX_RATIO <= most:
        return
    inflate = zlib.decompressobj()
    pieces = (png[at : min(at + PIECE, end)] for start, end in data for at in range(start, end, PIECE))
    try:
        for piece in pieces:
            most -= len(inflate.decompress(piece, most + 1))
            if most < 0:
                raise TooLargeError("the png's data is longer than its rows", wanted=f"{rows} bytes")
    except zlib.error as error:
        raise _not_one("png", str(error)) from error


def _raw_bytes(header: bytes) -> int:
    """Return how many bytes the rows of a PNG have before they are compressed, by the content of its IHDR."""
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    bits = header[8] * PNG_CHANNELS.get(header[9], 0)
    passes = PNG_PASSES if header[12] else ((0, 0, 1, 1),)
    total = 0
    for x, y, dx, dy in passes:
        columns, rows = -((x - width) // dx), -((y - height) // dy)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _png_size(data: bytes | memoryview) -> _Size:
    head = bytes(data[:33])
    if len(head) < 33 or not head.startswith(PNG_START):
        raise _not_one("png", "it does not begin as one")
    check_png(data)
    return _Size(int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big"))


def check_png(data: bytes | memoryview) -> None:
    """Check that a PNG's chunks lie within it, before OpenCV sees it.

    OpenCV's reader allocates a chunk by the length that the chunk states, which may be 4 GiB in a file of
    200 bytes, and the frames of an animation by sizes of their own. What does not begin as a PNG passes.

    Raises
    ------
    NotAnImageError
        A chunk is cut off, or the PNG is animated.
    """
    if bytes(data[: len(PNG_SIGNATURE)]) != PNG_SIGNATURE:
        return
    for kind, _, _ in _chunks(data):
        if kind == PNG_ANIMATION:
            raise _not_one("png", "it is animated")


def _check_sums(png: bytes | memoryview) -> None:
    """Check that a PNG has all its chunks, and that each has the content that it was written with."""
    kind = b""
    for kind, at, length in _chunks(png):
        checksum = int.from_bytes(png[at + length : at + length + 4], "big")
        if zlib.crc32(png[at - 4 : at + length]) != checksum:
            raise _not_one("png", f"its chunk {kind!r} is damaged: the checksum is wrong")
    if kind != PNG_END:
        raise _not_one("png", "it is cut off")


def _chunks(png: bytes | memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Yield each chunk's type, the offset of its content and its length, as far as IEND."""
    at = len(PNG_SIGNATURE)
    kind = b""
    while at < len(png) and kind != PNG_END:
        length, kind = int.from_bytes(png[at : at + 4], "big"), bytes(png[at + 4 : at + 8])
        if at + length + PNG_AROUND > len(png):
            raise _not_one("png", f"its chunk {kind!r} of {length} bytes is cut off")
        yield kind, at + 8, length
        at += length + PNG_AROUND


def _jpeg_size(data: bytes | memoryview) -> _Size:
    """Read the size in the frame header; segments before it are skipped by their length.

    What else libjpeg would skip, or end with, ends it here: else the two would not see the same header.
    """
    if bytes(data[:2]) != JPEG_START:
        raise _not_one("jpeg", "it does not begin as one")
    at = 2
    for _ in range(MAX_SEGMENTS):
        if at + 9 > len(data) or data[at] != 0xFF:
            break
        at = _end_of_fill(data, at) - 1
        if at + 9 > len(data):
            break
        marker = data[at + 1]
        if marker in JPEG_FRAMES:
            return _Size(
                int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
            )
        if marker in JPEG_ALONE:
            at += 2
        elif marker in JPEG_SEGMENTS:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        else:
            break
    raise _not_one("jpeg", "it has no frame header")


def _end_of_fill(data: bytes | memoryview, at: int) -> int:
    fill = _FILL.match(data, at)
    assert fill is not None
    return fill.end()


def _not_one(form: str, why: str) -> NotAnImageError:
    return NotAnImageError(f"this is not a {form} image: {why}", wanted=f"the bytes of a {form} file")
