"""Frames into model inputs, and boxes back into frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from qzd_ext.errors import DataError
from qzd_ext.geometry import fit, prepare
from qzd_ext.manifest import Input

SIDE = st.integers(1, 4000)
RESIZES = [
    Input(width=416, height=416, resize="stretch"),
    Input(width=416, height=320, resize="letterbox"),
    Input(width=416, height=320, resize="letterbox", anchor="corner"),
    Input(width=224, height=224, resize="crop", short_side=256),
]


@pytest.mark.parametrize("spec", RESIZES, ids=lambda s: f"{s.resize}-{s.anchor}")
@given(width=SIDE, height=SIDE, corners=st.tuples(*[st.floats(0, 1)] * 4))
def test_boxes_come_back_whence_they_came(
    spec: Input, width: int, height: int, corners: tuple[float, float, float, float]
) -> None:
    box = np.array([corners], np.float32) * np.array([width, height] * 2, np.float32)
    transform = fit(width, height, spec)
    back = oracle.to_source(transform, oracle.to_input(transform, box))
    # float32 carries about 7 digits, and a tiny frame in a large input magnifies what is lost
    np.testing.assert_allclose(back, box, atol=max(width, height) * 2e-5)


@pytest.mark.parametrize(
    ("size", "spec", "offset", "scale"),
    [
        ((640, 480), RESIZES[0], (0, 0), (0.65, 416 / 480)),
        ((640, 480), RESIZES[1], (0, 4), (0.65, 0.65)),
        ((640, 480), RESIZES[2], (0, 0), (0.65, 0.65)),
        ((480, 640), RESIZES[1], (88, 0), (0.5, 0.5)),
        ((512, 256), RESIZES[3], (-144, -16), (1, 1)),
    ],
    ids=["stretch", "letterbox", "corner", "tall", "crop"],
)
def test_fit_gives_offset_and_scale(
    size: tuple[int, int], spec: Input, offset: tuple[float, float], scale: tuple[float, float]
) -> None:
    transform = fit(*size, spec)
    assert (transform.offset_x, transform.offset_y) == offset
    assert (transform.scale_x, transform.scale_y) == pytest.approx(scale)


def test_to_source_clips_to_the_frame() -> None:
    transform = fit(640, 480, RESIZES[1])
    boxes = oracle.to_source(transform, np.array([[-50, -50, 900, 900]], np.float32))
    assert boxes.tolist() == [[0, 0, 640, 480]]


def test_to_source_of_no_boxes_is_empty() -> None:
    assert oracle.to_source(fit(640, 480, RESIZES[1]), np.empty((0, 4), np.float32)).shape == (0, 4)


@pytest.mark.parametrize("spec", RESIZES, ids=lambda s: f"{s.resize}-{s.anchor}")
@given(width=st.integers(1, 900), height=st.integers(1, 900))
def test_prepare_overwrites_every_pixel(spec: Input, width: int, height: int) -> None:
    frame = np.full((height, width, 3), 200, np.uint8)
    out = np.full((spec.height, spec.width, 3), 7, np.uint8)
    prepare(frame, spec, out)
    assert set(np.unique(out)) <= {200, 114}


def test_prepare_pads_around_a_centred_letterbox() -> None:
    out = np.zeros((320, 416, 3), np.uint8)
    prepare(np.full((480, 640, 3), 9, np.uint8), RESIZES[1], out)
    assert (out[:4] == 114).all()
    assert (out[4:316] == 9).all()
    assert (out[316:] == 114).all()


def test_prepare_crops_the_centre() -> None:
    frame = np.zeros((256, 512, 3), np.uint8)
    frame[:, 144:368] = 255
    out = np.zeros((224, 224, 3), np.uint8)
    prepare(frame, RESIZES[3], out)
    assert (out == 255).all()


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
    ids=["grey", "with alpha", "float32", "empty"],
)
def test_prepare_refuses_what_opencv_would_write_elsewhere(frame: np.ndarray) -> None:
    out = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(DataError, match=r"a frame is .*\n.*uint8 \(height, width, 3\)"):
        prepare(frame, Input(width=8, height=8, resize="stretch"), out)
