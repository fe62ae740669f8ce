"""Golden frames: which differences still count as the same answer."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from qzd_ext import bundle
from qzd_ext.detections import Classes, Detections
from qzd_ext.errors import BundleError
from qzd_ext.golden import GoldenFrame, Tolerance, compare, read_golden, write_golden
from qzd_ext.manifest import Classification, Input, Labels, Manifest, Yolox

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


MANIFEST = Manifest(
    name="golden",
    task="detection",
    precision="fp32",
    input=Input(width=64, height=64, resize="stretch"),
    head=Yolox(),
    labels=Labels(names=("bolt",)),
)


def _bundle_with_golden(
    path: Path, files: dict[str, bytes] | None = None, manifest: Manifest = MANIFEST
) -> bundle.Bundle:
    """Eleven golden frames, and then files of which the bundle's hashes are right."""
    with bundle.create(path) as draft:
        for name in ("model.xml", "model.bin"):
            (draft.directory / name).write_bytes(b"x")
        for i in range(11):
            frame = np.full((8, 9, 3), i, np.uint8)
            write_golden(draft.directory, i, GoldenFrame(frame, _found((BOX, 0.5, 0))))
        for name, content in (files or {}).items():
            (draft.directory / name).write_bytes(content)
        draft.manifest = manifest
    return bundle.read(path)


VAST = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (10**6).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0\xd3\x0f\xaf*"
"""The beginning of a PNG that says it has 10^12 pixels."""


def test_read_golden_gives_what_was_written_in_order(tmp_path: Path) -> None:
    frames = read_golden(_bundle_with_golden(tmp_path / "b"))
    assert [int(f.frame[0, 0, 0]) for f in frames] == list(range(11))
    assert all(compare(f.expected, _found((BOX, 0.5, 0)), TOLERANCE, 0.25) == [] for f in frames)


def test_golden_frames_below_a_name_that_is_no_utf8_are_read_and_written(tmp_path: Path) -> None:
    assert len(read_golden(_bundle_with_golden(tmp_path / os.fsdecode(b"caf\xe9")))) == 11


def test_read_golden_names_the_picture_that_cannot_be_read(tmp_path: Path) -> None:
    found = _bundle_with_golden(tmp_path / "b", {"golden/3.png": b"no picture"})
    with pytest.raises(BundleError, match=r"3\.png: this is not a png image"):
        read_golden(found)


def test_read_golden_gives_what_was_hashed_when_the_files_have_changed_since(tmp_path: Path) -> None:
    found = _bundle_with_golden(tmp_path / "b")
    answer = found.path / "golden" / "3.json"
    answer.write_bytes(answer.read_bytes().replace(b"0.5", b"0.6"))
    assert [float(frame.expected.scores[0]) for frame in read_golden(found)] == [0.5] * 11


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"golden/first.png": b""}, r"first\.png: not a number"),
        ({"golden/99.png": b"x"}, r"99\.json: not listed under"),
        ({"golden/3.png": b""}, r"3\.png: this is not a png image"),
        ({"golden/3.png": VAST}, r"3\.png: the image is 1000000x1000000"),
        ({"golden/3.json": b"[]"}, r"3\.json: Expected `object`"),
        ({"golden/3.json": b'{"scores":[1],"class_ids":[0],"boxes":[]}'}, r"3\.json: boxes: wanted"),
        ({"golden/3.json": b'{"scores":[1],"class_ids":[99999999999],"boxes":[[1,2,3,4]]}'}, r"3\.json: "),
        ({"golden/3.json": b'{"scores":[1e300],"class_ids":[0],"boxes":[[1,2,3,4]]}'}, r"3\.json: overflow"),
    ],
    ids=["name", "no answer", "empty picture", "vast picture", "json", "lengths", "huge class", "huge score"],
)
def test_read_golden_refuses_what_is_no_golden_frame(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        read_golden(_bundle_with_golden(tmp_path / "b", files))


def test_read_golden_refuses_a_classifier_without_an_answer(tmp_path: Path) -> None:
    found = _bundle_with_golden(
        tmp_path / "b",
        {"golden/0.json": b'{"scores":[],"class_ids":[],"boxes":[]}'},
        msgspec.structs.replace(MANIFEST, task="classification", head=Classification()),
    )
    with pytest.raises(BundleError, match=r"0\.json: no class is named"):
        read_golden(found)


def test_compare_takes_boxes_within_a_pixel_for_the_same_when_they_have_no_area() -> None:
    line = _found(((10, 40, 44, 40), 0.5, 0))
    assert compare(line, _found(((10.4, 40.4, 44.4, 40.4), 0.5, 0)), TOLERANCE, 0.25) == []
    assert compare(line, _found(((13, 43, 47, 43), 0.5, 0)), TOLERANCE, 0.25)
