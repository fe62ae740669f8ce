"""Golden frames: what counts as the same answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qzd_ext import bundle
from qzd_ext.detections import Classes, Detections
from qzd_ext.errors import BundleError
from qzd_ext.golden import GoldenFrame, Tolerance, compare, read_golden, write_golden
from qzd_ext.manifest import Input, Labels, Manifest, Yolox

TOLERANCE = Tolerance(score=0.05, iou=0.9)
BOX = (10.0, 10.0, 110.0, 110.0)


def _found(*rows: tuple[tuple[float, float, float, float], float, int]) -> Detections:
    return Detections(
        np.array([r[0] for r in rows], np.float32).reshape(-1, 4),
        np.array([r[1] for r in rows], np.float32),
        np.array([r[2] for r in rows], np.int32),
    )


@pytest.mark.parametrize(
    ("expected", "got", "problems"),
    [
        (_found(), _found(), 0),
        (_found((BOX, 0.9, 0)), _found((BOX, 0.9, 0)), 0),
        (_found((BOX, 0.9, 0)), _found((BOX, 0.86, 0)), 0),
        (_found((BOX, 0.9, 0)), _found((BOX, 0.8, 0)), 2),
        (_found((BOX, 0.9, 0)), _found((BOX, 0.9, 1)), 2),
        (_found((BOX, 0.9, 0)), _found(((30, 10, 130, 110), 0.9, 0)), 2),
        (_found((BOX, 0.9, 0)), _found(), 1),
        (_found(), _found((BOX, 0.9, 0)), 1),
        (_found((BOX, 0.43, 0)), _found(), 0),
        (_found(), _found((BOX, 0.43, 0)), 0),
    ],
    ids=["nothing", "same", "near", "score", "class", "moved", "lost", "new", "lost near", "new near"],
)
def test_compare_tells_what_differs(expected: Detections, got: Detections, problems: int) -> None:
    assert len(compare(expected, got, TOLERANCE, confidence=0.4)) == problems


@pytest.mark.parametrize(("score", "class_id", "same"), [(0.88, 3, True), (0.8, 3, False), (0.9, 4, False)])
def test_compare_of_classes_looks_at_the_best(score: float, class_id: int, *, same: bool) -> None:
    expected = Classes(np.array([0.9], np.float32), np.array([3], np.int32))
    got = Classes(np.array([score], np.float32), np.array([class_id], np.int32))
    assert (compare(expected, got, TOLERANCE, confidence=0.4) == []) is same


def _bundle_with_golden(path: Path) -> bundle.Bundle:
    with bundle.create(path) as draft:
        for name in ("model.xml", "model.bin"):
            (draft.directory / name).write_bytes(b"x")
        for i in range(11):
            frame = np.full((8, 9, 3), i, np.uint8)
            write_golden(draft.directory, i, GoldenFrame(frame, _found((BOX, 0.5, 0))))
        draft.manifest = Manifest(
            name="golden",
            task="detection",
            precision="fp32",
            input=Input(width=64, height=64, resize="stretch"),
            head=Yolox(),
            labels=Labels(names=("bolt",)),
        )
    return bundle.read(path)


def test_read_golden_gives_what_was_written_in_order(tmp_path: Path) -> None:
    frames = read_golden(_bundle_with_golden(tmp_path / "b"))
    assert [int(f.frame[0, 0, 0]) for f in frames] == list(range(11))
    assert all(compare(f.expected, _found((BOX, 0.5, 0)), TOLERANCE, 0.25) == [] for f in frames)


def test_read_golden_names_the_picture_that_cannot_be_read(tmp_path: Path) -> None:
    found = _bundle_with_golden(tmp_path / "b")
    (found.path / "golden" / "3.png").write_bytes(b"no picture")
    with pytest.raises(BundleError, match=r"3\.png: not a picture"):
        read_golden(found)


def test_compare_takes_boxes_within_a_pixel_for_the_same_when_they_have_no_area() -> None:
    line = _found(((10, 40, 44, 40), 0.5, 0))
    assert compare(line, _found(((10.4, 40.4, 44.4, 40.4), 0.5, 0)), TOLERANCE, 0.25) == []
    assert compare(line, _found(((13, 43, 47, 43), 0.5, 0)), TOLERANCE, 0.25)
