"""Pictures of videos: what a model sees of one is what it sees of the whole picture as an image."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest

from qzd_ext.geometry import Frame, prepare
from qzd_ext.manifest import Input
from qzd_ext.pictures import VideoPicture

FORMATS = ("yuv420p", "yuvj420p", "nv12", "yuv422p", "yuv444p", "rgb24", "bgr24", "gray")


def picture(width: int, height: int, form: str = "yuv420p") -> av.VideoFrame:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    return av.VideoFrame.from_ndarray(pixels, format="bgr24").reformat(format=form)


def bgr(frame: av.VideoFrame) -> Frame:
    """As PyAV itself converts it."""
    return np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("size", [(64, 48), (65, 47), (2, 2)])
def test_to_bgr_gives_what_pyav_gives(form: str, size: tuple[int, int]) -> None:
    frame = picture(*size, form)
    shown = VideoPicture(frame)
    assert (shown.width, shown.height) == size
    np.testing.assert_array_equal(shown.to_bgr(), bgr(frame))


def test_to_bgr_on_many_threads_keeps_pictures_apart() -> None:
    frames = [picture(160 + 2 * i, 90) for i in range(4)]
    expected = [bgr(frame) for frame in frames]

    def is_same(index: int) -> bool:
        return np.array_equal(VideoPicture(frames[index % 4]).to_bgr(), expected[index % 4])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(is_same, range(400)))


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "crop"])
def test_prepare_of_a_picture_is_that_of_its_pixels(resize: Literal["stretch", "letterbox", "crop"]) -> None:
    short = 80 if resize == "crop" else 0
    spec = Input(width=96, height=64, resize=resize, short_side=short)
    frame = picture(321, 181)
    one, other = np.zeros((64, 96, 3), np.uint8), np.zeros((64, 96, 3), np.uint8)
    assert prepare(VideoPicture(frame), spec, one) == prepare(bgr(frame), spec, other)
    np.testing.assert_array_equal(one, other)


def write_turned(path: Path) -> Frame:
    """Write a video of one picture, to be shown turned by a quarter; return that picture, not turned."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        container.mux(stream.encode(picture(64, 32)))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        plain = bgr(next(container.decode(video=0)))
    data = bytearray(path.read_bytes())
    at = data.index(_matrix(1, 0, 0, 1), data.index(b"tkhd"))
    data[at : at + 20] = _matrix(0, 1, -1, 0)
    path.write_bytes(data)
    return plain


def _matrix(a: int, b: int, c: int, d: int) -> bytes:
    """Return the start of the matrix in an MP4's track header: fixed-point numbers of 16.16 bits."""
    return b"".join((v << 16).to_bytes(4, "big", signed=True) for v in (a, b, 0, c, d))


def test_picture_that_is_to_be_shown_turned_has_the_turned_size_and_pixels(tmp_path: Path) -> None:
    plain = write_turned(tmp_path / "turned.mp4")
    with av.open(str(tmp_path / "turned.mp4")) as container:
        shown = VideoPicture(next(container.decode(video=0)))
    assert (shown.width, shown.height) == (32, 64)
    np.testing.assert_array_equal(shown.to_bgr(), np.rot90(plain, -1))
