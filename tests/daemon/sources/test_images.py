"""Images of strangers: what lies about its size, hides it, or is cut off, is never decoded."""

from __future__ import annotations

import resource

import pytest

from qzd_daemon.sources.images import NotAnImageError, TooLargeError, read_image
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
    form: str, data: bytes, error: type[Exception]
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(error):
        read_image(form, data, None, None, 65536)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 16 * 1024  # KiB


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
