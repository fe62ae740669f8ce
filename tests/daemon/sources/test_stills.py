"""Pictures in files: whole ones as OpenCV reads them, others refused, and nothing printed by a C library."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from qzd_daemon.sources.stills import read_still
from qzd_ext.errors import QzdError
from qzd_ext.geometry import Frame
from qzd_ext.images import NotAnImageError
from support.video_damage import moving_squares

PICTURE: Frame = moving_squares(1)[0]
SUFFIXES = [".jpg", ".png", ".webp", ".tiff", ".bmp", ".jp2", ".gif", ".ppm", ".avif"]


def encode(suffix: str, picture: Frame = PICTURE) -> bytes:
    return cv2.imencode(suffix, picture)[1].tobytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_read_still_when_it_is_whole_gives_what_opencv_gives(suffix: str) -> None:
    content = encode(suffix)
    expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    found = read_still(content)
    if suffix == ".avif":  # libavif and FFmpeg make full resolution of half the colours in different ways
        small = [cv2.resize(np.asarray(p), (10, 10), interpolation=cv2.INTER_AREA) for p in (found, expected)]
        np.testing.assert_allclose(small[0], small[1], atol=8)
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_read_still_when_it_is_cut_off_refuses_it(
    suffix: str, share: float, capfd: pytest.CaptureFixture[str]
) -> None:
    content = encode(suffix)
    with pytest.raises(QzdError):
        read_still(content[: int(len(content) * share)])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("premature end", lambda c: c[: len(c) // 2] + b"\xff\xd9"),
        ("extraneous bytes before a marker", lambda c: c[:-2] + b"\x55" * 20 + c[-2:]),
        ("end without its marker", lambda c: c[:-2]),
    ],
)
def test_read_still_of_a_jpeg_that_libjpeg_warns_of_refuses_it(
    name: str, damage: Callable[[bytes], bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NotAnImageError, match="this is not a jpeg image: it is damaged: "):
        read_still(damage(encode(".jpg")))
    assert capfd.readouterr().err == ""


def test_read_still_of_a_jpeg_of_which_60_bytes_were_overwritten_refuses_most() -> None:
    content, rng = encode(".jpg"), random.Random(1)
    refused = 0
    for _ in range(100):
        at = rng.randrange(len(content) // 4, len(content) - 100)
        try:
            read_still(content[:at] + rng.randbytes(60) + content[at + 60 :])
        except NotAnImageError:
            refused += 1
    assert refused > 50  # entropy coding may recover without an error, and JPEG has no checksum


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_read_still_of_a_png_with_one_bit_flipped_refuses_it(
    at: float, capfd: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(encode(".png"))
    content[int(len(content) * at)] ^= 4
    with pytest.raises(NotAnImageError, match="this is not a png image"):
        read_still(bytes(content))
    assert capfd.readouterr().err == ""


def test_read_still_of_a_png_with_an_odd_colour_profile_prints_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    content = encode(".png")
    body = b"iCCPodd\x00\x00" + zlib.compress(b"not a profile")
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    np.testing.assert_array_equal(read_still(content[:33] + chunk + content[33:]), PICTURE)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not an image"),
        (b"this is not an image", "not an image"),
        (b"#EXTM3U\n/etc/passwd\n", "not an image"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not an image"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(12), "HEIC, which is not supported"),
    ],
)
def test_read_still_of_anything_else_says_what_it_is(content: bytes, expected: str) -> None:
    with pytest.raises(NotAnImageError, match=expected):
        read_still(content)


def test_read_still_of_a_small_file_with_a_vast_picture_refuses_it() -> None:
    header = b"GIF89a" + (60000).to_bytes(2, "little") * 2 + b"\x80\x00\x00" + bytes(6)
    frame = b"," + bytes(4) + (60000).to_bytes(2, "little") * 2 + b"\x00\x02\x02\x4c\x01\x00;"
    with pytest.raises(NotAnImageError):
        read_still(header + frame)
