"""Images from outside: one that lies about its size or is cut off is never decoded."""

from __future__ import annotations

import resource
import sys
import zlib
from types import FrameType
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qzd_ext import images
from qzd_ext.images import NotAnImageError, TooLargeError, read_image
from support.tiny_model import encode, paint

FRAME = paint((1, 2, "red"), (5, 6, "blue"))
JPEG_HEAD = b"\xff\xd8\xff\xc0\x00\x11\x08"


@pytest.mark.parametrize(
    ("form", "data", "error"),
    [
        ("png", encode(FRAME)[:16] + b"\x00\x01\x00\x00" * 2 + encode(FRAME)[24:], TooLargeError),
        ("jpeg", JPEG_HEAD + b"\xff\xff\xff\xff" + b"\x03" * 20, TooLargeError),
        ("jpeg", encode(FRAME, "jpeg")[:-2] + b"\xff\xda" * 200, TooLargeError),
        ("jpeg", b"\xff\xd8" + b"\xff" * 1000, NotAnImageError),
        ("jpeg", b"\xff\xd8\xff\xda\x00\x02", NotAnImageError),
        ("jpeg", b"\xff\xd8\xff\xe0\x00\x00" * 50, NotAnImageError),
        ("jpeg", encode(FRAME, "jpeg")[:100], NotAnImageError),
        ("png", encode(FRAME)[:23], NotAnImageError),
        ("png", encode(FRAME)[:33] + b"\xe3" + encode(FRAME)[34:], NotAnImageError),
        (
            "png",
            encode(FRAME)[:33] + b"\x00\x00\x00\x00acTL\x00\x00\x00\x00" + encode(FRAME)[33:],
            NotAnImageError,
        ),
    ],
)
def test_read_image_when_it_lies_or_is_cut_off_decodes_nothing(
    form: Literal["jpeg", "png"], data: bytes, error: type[Exception]
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(error):
        read_image(form, data, None, None, 65536)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 16 * 1024  # KiB


def _chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def _png(
    width: int, height: int, data: bytes, *, bits: int = 8, colour: int = 2, interlaced: int = 0
) -> bytes:
    """Make a PNG with this compressed data, in two chunks."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((bits, colour, 0, 0, interlaced))
    half = len(data) // 2
    chunks = ((b"IHDR", header), (b"IDAT", data[:half]), (b"IDAT", data[half:]), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _bomb(megabytes: int) -> bytes:
    deflate = zlib.compressobj(9)
    return b"".join(deflate.compress(bytes(1 << 20)) for _ in range(megabytes)) + deflate.flush()


def test_read_image_when_a_png_inflates_to_more_than_its_rows_decodes_nothing() -> None:
    bomb = _bomb(256)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TooLargeError, match="longer than its rows"):
        read_image("png", _png(64, 64, bomb), None, None, 65536)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 16 * 1024  # KiB


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize(
    ("bits", "colour", "per_pixel"), [(8, 2, 24), (16, 6, 64), (1, 0, 1), (4, 3, 4), (8, 4, 16)]
)
@given(width=st.integers(1, 40), height=st.integers(1, 40))
def test_the_rows_of_a_png_have_as_many_bytes_as_the_standard_says(
    interlaced: int, bits: int, colour: int, per_pixel: int, width: int, height: int
) -> None:
    places = [[0] * width for _ in range(height)]
    if interlaced:  # the pass of each pixel in a block of 8x8, as ISO/IEC 15948 draws it
        adam7 = (
            "16462646",
            "77777777",
            "56565656",
            "77777777",
            "36463646",
            "77777777",
            "56565656",
            "77777777",
        )
        places = [[int(adam7[y % 8][x % 8]) for x in range(width)] for y in range(height)]
    rows = [row.count(number) for number in range(8) for row in places]
    wanted = sum(1 + (columns * per_pixel + 7) // 8 for columns in rows if columns)
    header = _png(width, height, b"", bits=bits, colour=colour, interlaced=interlaced)[16:29]
    assert wanted == images._raw_bytes(header)


def test_read_image_when_the_png_is_noise_still_reads_it() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (300, 400, 3), np.uint8)
    assert (read_image("png", encode(noise), None, None, 120_000) == noise).all()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff" * (32 << 20),
        b"\xff\xd8" + b"\xff\xe0\x00\x02" * (8 << 20),
        b"\xff\xd8" + b"\xff\x01" * (16 << 20),
    ],
    ids=["fill", "empty segments", "markers"],
)
def test_read_image_when_a_jpeg_never_comes_to_its_frame_takes_few_steps(data: bytes) -> None:
    steps = 0

    def count(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal steps
        steps += 1
        return count

    sys.settrace(count)
    try:
        with pytest.raises(NotAnImageError, match="no frame header"):
            read_image("jpeg", data, None, None, 65536)
    finally:
        sys.settrace(None)
    assert steps < 100_000


def test_read_image_when_a_large_jpeg_has_many_scans_decodes_nothing() -> None:
    with pytest.raises(TooLargeError, match="30 scans"):
        read_image("jpeg", JPEG_HEAD + b"\x1f\x40\x10\x00\x03" + b"\xff\xda" * 30, None, None, 1 << 30)


@pytest.mark.parametrize("marker", [0x00, 0x02, 0xBF, 0xC8, 0xD8, 0xD9, 0xDE, 0xF0])
def test_read_image_when_a_jpeg_hides_its_frame_header_decodes_nothing(marker: int) -> None:
    picture = encode(FRAME, "jpeg")
    at = picture.index(b"\xff\xc0") + 5
    large = picture[2:at] + (4000).to_bytes(2, "big") * 2 + picture[at + 4 :]
    hidden = bytes((0xFF, marker)) + (len(large) + 2).to_bytes(2, "big") + large
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(NotAnImageError):
        read_image("jpeg", b"\xff\xd8" + hidden + picture[at - 5 :], None, None, 65536)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 16 * 1024  # KiB


def test_read_image_when_a_photograph_is_to_be_turned_turns_it() -> None:
    picture = encode(FRAME[:32], "jpeg")
    turned = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    block = b"\xff\xe1" + (len(turned) + 2).to_bytes(2, "big") + turned
    assert read_image("jpeg", picture[:2] + block + picture[2:], None, None, 65536).shape == (64, 32, 3)


def test_read_image_when_bytes_follow_the_end_of_a_png_reads_what_is_before_it() -> None:
    assert read_image("png", encode(FRAME) + b"\xff" * 20, None, None, 65536).shape == (64, 64, 3)


def test_read_image_when_a_thumbnail_comes_first_takes_the_size_of_the_image() -> None:
    picture = encode(FRAME, "jpeg")
    thumbnail = JPEG_HEAD + b"\xff\xff\xff\xff\x03"
    block = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    image = read_image("jpeg", picture[:2] + block + picture[2:], None, None, 65536)
    assert image.shape == (64, 64, 3)
