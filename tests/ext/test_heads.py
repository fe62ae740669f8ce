"""Every head against the oracle, with ordinary and with difficult tensors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from qzd_ext._nms import Candidates
from qzd_ext._place import Placement
from qzd_ext._scan import scan_columns, scan_final, scan_objects, scan_rows
from qzd_ext.decode import Decoder
from qzd_ext.errors import DeviceError
from qzd_ext.manifest import Thresholds
from support.head_cases import KINDS, Case, make_case, plain
from support.results import as_detections


def check(case: Case, thresholds: Thresholds) -> None:
    """Check that the decoder and the oracle find the same boxes in the same order, or neither any."""
    manifest = case.manifest
    decoder = Decoder(manifest, [t.shape for t in case.tensors], case.priors)
    for tensor in case.tensors:
        tensor.flags.writeable = False
    expected = oracle.decode(manifest, case.tensors, thresholds, case.priors)
    if expected.invalid:
        with pytest.raises(DeviceError, match="no sound model"):
            decoder.decode(case.tensors, plain(manifest), thresholds)
        return
    found = as_detections(decoder.decode(case.tensors, plain(manifest), thresholds))
    limit = np.array([manifest.input.width, manifest.input.height] * 2, np.float32)
    assert expected.class_ids.tolist() == found.class_ids.tolist()
    assert expected.scores.tolist() == found.scores.tolist()
    np.testing.assert_allclose(found.boxes, np.clip(expected.boxes, 0, limit), rtol=1e-4, atol=1e-5)
    assert expected.truncated == found.truncated


@pytest.mark.parametrize("kind", KINDS)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.sampled_from([1, 2, 30, 90]),
    classes=st.sampled_from([1, 2, 7, 40]),
    levels=st.sampled_from([None, 1, 2, 9]),
    poison=st.sampled_from([0, 0, 1, 40]),
    confidence=st.sampled_from([0.0, 0.001, 0.25, 0.5, 1 / 3, 0.9, 1.0]),
    iou=st.sampled_from([0.0, 0.45, 0.5, 1.0]),
    multi_label=st.booleans(),
    agnostic=st.booleans(),
    diou=st.booleans(),
    limits=st.sampled_from([(30000, 300), (30000, 5), (7, 300), (1, 1)]),
)
def test_head_gives_what_the_oracle_gives(
    kind: str,
    seed: int,
    n: int,
    classes: int,
    levels: int | None,
    poison: int,
    confidence: float,
    iou: float,
    multi_label: bool,
    agnostic: bool,
    diou: bool,
    limits: tuple[int, int],
) -> None:
    thresholds = Thresholds(
        confidence=confidence,
        iou=iou,
        nms="diou" if diou else "iou",
        agnostic=agnostic,
        multi_label=multi_label,
        max_candidates=limits[0],
        max_detections=limits[1],
    )
    check(make_case(kind, seed, n, classes, levels, poison), thresholds)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("multi_label", [False, True])
def test_head_gives_what_the_oracle_gives_when_there_are_1000_classes(kind: str, multi_label: bool) -> None:
    check(make_case(kind, 1, 50, 1000), Thresholds(confidence=0.6, multi_label=multi_label))


@pytest.mark.parametrize("kind", ["v8 columns", "v8 rows", "v5", "ssd sigmoid", "ssd softmax"])
def test_head_gives_what_the_oracle_gives_of_100000_anchors(kind: str) -> None:
    check(make_case(kind, 2, 100_000, 3), Thresholds(confidence=0.7, max_detections=20))


@pytest.mark.parametrize("kind", KINDS)
def test_head_gives_all_where_the_oracle_does_at_confidence_0(kind: str) -> None:
    thresholds = Thresholds(confidence=0, iou=1, multi_label=True, max_detections=10**6)
    check(make_case(kind, 5, 30, 4, poison=5), thresholds)


@pytest.mark.parametrize("kind", KINDS)
def test_head_finds_nothing_when_no_score_is_enough(kind: str) -> None:
    case = make_case(kind, 3, levels=2)
    decoder = Decoder(case.manifest, [t.shape for t in case.tensors], case.priors)
    found = as_detections(decoder.decode(case.tensors, plain(case.manifest), Thresholds(confidence=1.0)))
    assert (found.boxes.shape, found.scores.shape, found.class_ids.shape) == ((0, 4), (0,), (0,))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_head_is_an_error_when_nothing_is_finite(kind: str, value: float) -> None:
    """A model that is broken must not look like an empty street."""
    case = make_case(kind, 4, 30, 3)
    for tensor in case.tensors:
        tensor[...] = value
    decoder = Decoder(case.manifest, [t.shape for t in case.tensors], case.priors)
    with pytest.raises(DeviceError, match="no sound model"):
        decoder.decode(case.tensors, plain(case.manifest), Thresholds())


@pytest.mark.parametrize(
    ("score", "sound"), [(1.0, True), (1.019, True), (1.03, False), (-0.019, True), (-0.03, False)]
)
@pytest.mark.parametrize("kind", ["v8 columns", "v8 rows", "boxes corners", "dfl split"])
def test_head_takes_a_score_outside_0_to_1_for_rounding_only_when_it_is_near(
    kind: str, score: float, sound: bool
) -> None:
    case = make_case(kind, 4, 30, 3)
    case.tensors[-1][0, 5, -1] = score
    check(case, Thresholds())
    expected = oracle.decode(case.manifest, case.tensors, Thresholds(), case.priors)
    assert sound == (expected.invalid == 0)


def test_head_publishes_a_score_of_1_when_rounding_took_it_above() -> None:
    case = make_case("v8 columns", 4, 30, 3)
    case.tensors[0][0, 4, 7] = 1.01
    decoder = Decoder(case.manifest, [t.shape for t in case.tensors])
    found = decoder.decode(case.tensors, plain(case.manifest), Thresholds())
    assert found.scores[0] == 1.0


@pytest.mark.parametrize(("shape", "fits"), [((3, 6), True), ((1, 3, 7), True), ((3, 5), False), ((), False)])
def test_final_boxes_need_the_columns_that_are_read(shape: tuple[int, ...], fits: bool) -> None:
    rows, place, found = np.ones(shape, np.float32), Placement.corners(1, 1), candidates()
    if fits:
        assert scan_final(rows, 4, 5, (0, 1, 2, 3), -1, 0, 2, place, found, 0.5) is None
        assert len(found) == 3
    else:
        with pytest.raises(ValueError, match=r"columns|axis"):
            scan_final(rows, 4, 5, (0, 1, 2, 3), -1, 0, 2, place, found, 0.5)


def candidates() -> Candidates:
    return Candidates(2, 0.5, False, False, 10, 10)


@pytest.mark.parametrize("n", [0, 4, -1])
def test_scans_refuse_to_read_beyond_a_tensor(n: int) -> None:
    rows, place = np.ones((1, 3, 7), np.float32), Placement.center(1, 1)
    with pytest.raises(ValueError, match="wanted"):
        scan_objects(rows, 0, n, 7, 1, 2, 0, False, 0, place, candidates(), 0.5, False)
    with pytest.raises(ValueError, match="wanted"):
        scan_rows(rows, 4, n, 7, 3, 0, 3, 0, rows, 0, 7, 1, 0, place, candidates(), 0.5, False)
    with pytest.raises(ValueError, match="wanted"):
        scan_columns(rows, 0, 3, 8 if n == 4 else n, 0, rows, 0, 1, 3, 0, place, candidates(), 0.5, False)


def test_scans_refuse_another_number_of_boxes_than_there_are_cells() -> None:
    rows, place = np.ones((1, 3, 7), np.float32), Placement.offsets(np.ones((4, 3), np.float32))
    with pytest.raises(ValueError, match="wanted 4 boxes, got 3"):
        scan_objects(rows, 0, 3, 7, 1, 2, 0, False, 0, place, candidates(), 0.5, False)
