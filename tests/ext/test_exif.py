"""Photographs are turned as OpenCV turns them."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qzd_ext.exif import jpeg_orientation, turn
from qzd_ext.geometry import Frame
from qzd_ext.images import read_image

PHOTO: Frame = np.arange(12 * 20 * 3, dtype=np.uint8).reshape(12, 20, 3)


def jpeg(orientation: int, order: str = "<") -> bytes:
    """Make a JPEG that is to be turned."""
    mark = b"II" if order == "<" else b"MM"
    tiff = mark + struct.pack(f"{order}HIHHHIHHI", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\x00\x00" + tiff
    segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    plain = cv2.imencode(".jpg", PHOTO)[1].tobytes()
    return plain[:2] + segment + plain[2:]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_image_of_a_photograph_turns_it_as_opencv_does(orientation: int, order: str) -> None:
    data = jpeg(orientation, order)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(read_image("jpeg", data, None, None, 1000), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turn_gives_a_picture_that_lies_in_order(orientation: int) -> None:
    turned = turn(PHOTO, orientation)
    assert turned.flags.c_contiguous
    assert turned.shape == ((20, 12, 3) if orientation > 4 else (12, 20, 3))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientation_when_it_is_none_of_the_eight_is_upright(orientation: int) -> None:
    assert jpeg_orientation(jpeg(orientation)) == 1


@given(st.binary(max_size=200))
def test_orientation_of_any_bytes_is_one_of_the_eight(content: bytes) -> None:
    for start in (b"\xff\xd8", b"\xff\xd8\xff\xe1\x00\x60Exif\x00\x00II*\x00"):
        assert 1 <= jpeg_orientation(start + content) <= 8
