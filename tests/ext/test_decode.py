"""What a decoder refuses, what it copies, and what it does with final boxes."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from qzd_ext import manifest as m
from qzd_ext._nms import Candidates
from qzd_ext.decode import Decoder
from qzd_ext.detections import Classes, FloatArray
from qzd_ext.errors import DeviceError, ModelError
from qzd_ext.geometry import Transform
from qzd_ext.manifest import Thresholds
from support.head_cases import KINDS, POISON, Case, make_case, manifest_of, plain
from support.results import as_detections

ANCHORS: dict[str, Any] = {"anchors": ((9.0, 7.0), (20.0, 31.0)), "masks": ((0,), (1,))}
REFUSED = [
    (m.DetectionOutput(), [(1, 1, 100, 6)], "(1, 1, N, 7)"),
    (m.DetectionOutput(), [], "(1, 1, N, 7)"),
    (m.EndToEnd(), [(1, 300, 7)], "(1, N, 6)"),
    (m.EndToEnd(), [(2, 300, 6)], "(1, N, 6)"),
    (m.EndToEnd(), [(1, 2, 300, 6)], "(1, 1, N, 6)"),
    (m.EndToEnd(), [(300, 7)], "(N, 6)"),
    (m.BoxesScores(), [(1, 10, 4), (1, 10, 4)], "(1, 10, 4), (1, 10, 3) with 3 names"),
    (m.BoxesScores(boxes_layout="channels_first"), [(1, 10, 4), (1, 10, 3)], "(1, 4, 4), (1, 4, 3)"),
    (m.BoxesScores(scores_layout="channels_first"), [(1, 10, 4), (1, 10, 3)], "(1, 10, 4), (1, 3, 10)"),
    (m.Detr(no_object=True), [(1, 10, 3), (1, 10, 4)], "(1, 10, 4), (1, 10, 4) with 3 names and no object"),
    (m.Dfl(strides=(32,)), [(1, 6, 32), (1, 5, 3)], "(1, 6, 32), (1, 6, 3)"),
    (m.Dfl(strides=(40,), tensors="classes_boxes"), [(1, 5, 35)], "(1, 6, 35) with 3 names, 8 bins"),
    (m.Distances(strides=(32,), boxes_per_cell=2), [(1, 6, 4), (1, 6, 3)], "(1, 12, 4), (1, 12, 3)"),
    (m.YoloAnchor(**ANCHORS, layout="nahwc"), [(1, 1, 4, 6, 8), (1, 1, 2, 3, 9)], "(1, 1, h, w, 8)"),
    (m.Ssd(), [(1, 10, 4), (1, 10, 3)], "(1, 10, 4), (1, 10, 4) with 3 names and a background"),
    (m.Ssd(), [(1, 10, 4), (1, 11, 4)], "(1, 10, 4), (1, 10, 4)"),
    (m.Ssd(background=False), [(1, 10, 4), (1, 10, 4)], "(1, 10, 3) with 3 names"),
    (m.YoloAnchor(**ANCHORS), [(1, 8, 4, 6)], "(1, 8, h, w), (1, 8, h, w)"),
    (m.YoloAnchor(**ANCHORS), [(1, 8, 4, 6), (1, 9, 2, 3)], "(1, 8, h, w), (1, 8, h, w)"),
    (m.YoloAnchor(**ANCHORS, layout="nhwc"), [(1, 8, 4, 6), (1, 8, 2, 3)], "(1, h, w, 8)"),
    (m.YoloV5(), [(1, 10, 7)], "(1, N, 8) with 3 names"),
    (m.YoloV5(), [(1, 0, 8)], "(1, N, 8) with 3 names"),
    (m.Yolox(), [(1, 125, 8)], "(1, 126, 8) with 3 names and 126 cells of strides (8, 16, 32)"),
    (m.Yolox(strides=(32,)), [(1, 126, 8)], "(1, 6, 8)"),
    (m.YoloV8(), [(1, 10, 7)], "(1, 7, N) with 3 names, channels_first"),
    (m.YoloV8(layout="channels_last"), [(1, 7, 10)], "(1, N, 7)"),
    (m.YoloV8Raw(), [(1, 67, 125)], "(1, 67, 126)"),
    (m.YoloV8Raw(tensors="split"), [(1, 64, 126), (1, 4, 126)], "(1, 64, 126), (1, 3, 126)"),
    (m.YoloV8Raw(tensors="scales"), [(1, 67, 8, 12), (1, 67, 4, 6), (1, 67, 3, 2)], "(1, 67, 2, 3)"),
    (m.Classification(background=True), [(1, 3)], "(1, 4) with 3 names"),
]


@pytest.mark.parametrize(("head", "shapes", "wanted"), REFUSED)
def test_decoder_is_refused_when_shapes_are_not_the_heads(
    head: m.Head, shapes: list[tuple[int, ...]], wanted: str
) -> None:
    with pytest.raises(ModelError) as error:
        Decoder(manifest_of(head, 3), shapes)
    assert str(type(head).__struct_config__.tag) in error.value.found
    assert all(str(shape) in error.value.found for shape in shapes)
    assert wanted in str(error.value.wanted)


@pytest.mark.parametrize(
    ("priors", "found"),
    [
        (None, "no priors"),
        (np.zeros((9, 4), np.float32), "priors float32 (9, 4)"),
        (np.zeros((10, 4)), "priors float64 (10, 4)"),
    ],
)
def test_decoder_is_refused_when_priors_are_not_the_models(priors: FloatArray | None, found: str) -> None:
    with pytest.raises(ModelError) as error:
        Decoder(manifest_of(m.Ssd(), 3), [(1, 10, 4), (1, 10, 4)], priors)
    assert found in error.value.found
    assert "float32 (10, 4)" in str(error.value.wanted)


def decoder_of(case: Case) -> Decoder:
    return Decoder(case.manifest, [t.shape for t in case.tensors], case.priors)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda t: t.astype(np.float64),
        lambda t: t.astype(np.float16),
        lambda t: t[:, :-1],
        lambda t: t[0],
    ],
    ids=["float64", "float16", "a row less", "a dimension less"],
)
def test_decode_refuses_a_tensor_that_is_not_what_was_announced(
    wrong: Callable[[FloatArray], FloatArray],
) -> None:
    case = make_case("v5")
    with pytest.raises(ModelError) as error:
        decoder_of(case).decode([wrong(case.tensors[0])], plain(case.manifest), Thresholds())
    assert "the model gave" in error.value.found
    assert "float32 (1, 60, 10)" in str(error.value.wanted)


def test_decode_refuses_another_number_of_tensors() -> None:
    case = make_case("v5")
    with pytest.raises(ModelError, match="the model gave nothing"):
        decoder_of(case).decode([], plain(case.manifest), Thresholds())


@pytest.mark.parametrize("kind", KINDS)
def test_decode_reads_tensors_that_are_not_contiguous(kind: str) -> None:
    case = make_case(kind)
    strided = [np.repeat(t, 2, axis=-1)[..., ::2] for t in case.tensors]
    decoder, transform = decoder_of(case), plain(case.manifest)
    expected = as_detections(decoder.decode(case.tensors, transform, Thresholds()))
    found = as_detections(decoder.decode(strided, transform, Thresholds()))
    assert len(found)
    assert np.array_equal(expected.boxes, found.boxes)
    assert np.array_equal(expected.scores, found.scores)


@pytest.mark.parametrize("kind", KINDS)
def test_decode_leaves_the_tensors_as_they_were(kind: str) -> None:
    case = make_case(kind, poison=10)
    before = [t.copy() for t in case.tensors]
    with contextlib.suppress(DeviceError):
        decoder_of(case).decode(case.tensors, plain(case.manifest), Thresholds(confidence=0))
    for was, tensor in zip(before, case.tensors, strict=True):
        np.testing.assert_array_equal(was, tensor)


@pytest.mark.parametrize("kind", ["v8 columns", "anchor nchw"])
def test_decode_leads_boxes_back_into_the_frame_as_the_transform_does(kind: str) -> None:
    case = make_case(kind)
    transform = Transform(1920, 1080, 0.05, 0.059259, 0, -7)
    thresholds = Thresholds(confidence=0.3)
    raw = oracle.decode(case.manifest, case.tensors, thresholds)
    found = as_detections(decoder_of(case).decode(case.tensors, transform, thresholds))
    np.testing.assert_array_equal(oracle.to_source(transform, raw.boxes), found.boxes)


@pytest.mark.parametrize("kind", KINDS)
def test_decode_gives_the_same_on_many_threads_at_once(kind: str) -> None:
    case = make_case(kind, n=400)
    decoder, transform = decoder_of(case), plain(case.manifest)
    different: list[int] = []

    def decoded() -> FloatArray:
        return as_detections(decoder.decode(case.tensors, transform, Thresholds())).boxes

    expected = decoded()

    def work() -> None:
        for _ in range(20):
            if not np.array_equal(expected, decoded()):
                different.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not different


# --- heads that end in final boxes


def final_rows(seed: int, n: int, poison: int, levels: int | None = None) -> FloatArray:
    """(n, 7) rows of a DetectionOutput: image, label 1..3, score, corners in 0..1."""
    rng = np.random.default_rng(seed)
    rows = rng.random((n, 7)).astype(np.float32)
    rows[:, 0], rows[:, 1] = 0, rng.integers(1, 4, n)
    if levels:
        rows[:, 2] = np.floor(rows[:, 2] * levels) / levels
    for _ in range(poison if n else 0):
        rows[rng.integers(n), rng.integers(2, 7)] = rng.choice(np.array(POISON, np.float32))
    return rows


FRAME = Transform(96, 64, 1.0, 1.0, 0, 0)
FINAL = {
    "seed": st.integers(0, 2**32 - 1),
    "n": st.sampled_from([1, 5, 200]),
    "poison": st.sampled_from([0, 3, 40]),
    "levels": st.sampled_from([None, 2, 5]),
    "confidence": st.sampled_from([0.0, 0.3, 1.0]),
    "limit": st.sampled_from([1, 300]),
}


def check_final(decoder: Decoder, tensor: FloatArray, thresholds: Thresholds, expected: oracle.Found) -> None:
    if expected.invalid:
        with pytest.raises(DeviceError, match="no sound model"):
            decoder.decode([tensor], FRAME, thresholds)
        return
    found = as_detections(decoder.decode([tensor], FRAME, thresholds))
    assert expected.class_ids.tolist() == found.class_ids.tolist()
    assert expected.scores.tolist() == found.scores.tolist()
    np.testing.assert_allclose(found.boxes, np.clip(expected.boxes, 0, [96, 64] * 2), rtol=1e-4)
    assert expected.truncated == found.truncated


@given(**FINAL, end=st.integers(1, 200))
def test_detection_output_gives_what_the_oracle_gives(
    seed: int, n: int, poison: int, levels: int | None, confidence: float, limit: int, end: int
) -> None:
    rows = final_rows(seed, n, poison, levels)
    rows[end:, 0] = -1
    manifest = manifest_of(m.DetectionOutput(first_label=1), 3)
    thresholds = Thresholds(confidence=confidence, max_detections=limit)
    expected = oracle.final_boxes(rows[:end], thresholds, 2, 1, (3, 4, 5, 6), (96, 64), first_label=1)
    check_final(Decoder(manifest, [(1, 1, n, 7)]), rows[None, None], thresholds, expected)


COLUMNS: list[tuple[Any, ...]] = [
    ("x0", "y0", "x1", "y1", "score", "class"),
    ("x0", "y0", "x1", "y1", "class", "score"),
    ("class", "score", "x0", "y0", "x1", "y1"),
    ("-", "xc", "yc", "w", "h", "class", "score"),
    ("y0", "x0", "y1", "x1", "score", "-", "class"),
]


@given(**FINAL, normalized=st.booleans(), columns=st.sampled_from(COLUMNS), rank=st.sampled_from([2, 3, 4]))
def test_end_to_end_gives_what_the_oracle_gives(
    seed: int,
    n: int,
    poison: int,
    levels: int | None,
    confidence: float,
    limit: int,
    normalized: bool,
    columns: tuple[Any, ...],
    rank: int,
) -> None:
    rows = final_rows(seed, n, poison, levels)
    size, center = (96, 64) if normalized else (1, 1), "xc" in columns
    corners = ("xc", "yc", "w", "h") if center else ("x0", "y0", "x1", "y1")
    at = dict(zip(("-", "class", "score", *corners), rows.T, strict=True))
    laid = np.ascontiguousarray(np.stack([at[column] for column in columns], 1))
    manifest = manifest_of(m.EndToEnd(columns=columns, normalized=normalized, first_label=1), 3)
    thresholds = Thresholds(confidence=confidence, max_detections=limit)
    expected = oracle.final_boxes(rows, thresholds, 2, 1, (3, 4, 5, 6), size, 1, center)
    tensor = laid.reshape(*[1] * (rank - 2), n, len(columns))
    check_final(Decoder(manifest, [tensor.shape]), tensor, thresholds, expected)


@pytest.mark.parametrize("score", [-1.0, 0.0, -1e30])
def test_end_to_end_takes_a_row_with_a_low_score_for_padding_whatever_else_it_holds(score: float) -> None:
    rows = np.array([[1, 2, 3, 4, 0.9, 0], [np.nan, -1, -1, -1, score, -1]], np.float32)
    manifest = manifest_of(m.EndToEnd(), 3)
    found = as_detections(Decoder(manifest, [(1, 2, 6)]).decode([rows[None]], FRAME, Thresholds()))
    assert found.class_ids.tolist() == [0]


@pytest.mark.parametrize(
    "columns",
    [
        ("x0", "y0", "x1", "y1", "score"),
        ("x0", "y0", "x1", "y1", "score", "score"),
        ("xc", "yc", "x1", "y1", "score", "class"),
        ("xc", "yc", "w", "h", "x0", "score", "class"),
    ],
)
def test_end_to_end_is_refused_when_its_columns_are_no_box_score_and_class(columns: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="must name score, class and"):
        manifest_of(m.EndToEnd(columns=columns), 3)


@pytest.mark.parametrize("label", [0, 4, -1, 1e30])
def test_detection_output_is_an_error_when_a_label_has_no_name(label: float) -> None:
    rows = final_rows(0, 5, 0)
    rows[3, 1:3] = label, 0.9
    manifest = manifest_of(m.DetectionOutput(first_label=1), 3)
    with pytest.raises(ModelError, match=re.escape(f"label {label:g}\n")) as error:
        Decoder(manifest, [(1, 1, 5, 7)]).decode([rows[None, None]], plain(manifest), Thresholds())
    assert "1 to 3" in str(error.value.wanted)


def test_detection_output_passes_over_a_label_without_a_name_when_its_score_is_low() -> None:
    rows = final_rows(0, 1, 0)
    rows[0, 1:3] = 99, 0.1
    manifest = manifest_of(m.DetectionOutput(), 3)
    found = Decoder(manifest, [(1, 1, 1, 7)]).decode([rows[None, None]], plain(manifest), Thresholds())
    assert len(found) == 0


def test_classification_gives_its_best_classes() -> None:
    manifest = manifest_of(m.Classification(background=True, top_k=2), 3)
    values = np.array([[9, 1, 3, 2]], np.float32)
    found = Decoder(manifest, [(1, 4)]).decode([values], plain(manifest), Thresholds())
    assert isinstance(found, Classes)
    assert found.class_ids.tolist() == [1, 2]


@pytest.mark.parametrize("agnostic", [False, True])
def test_decode_with_floors_is_as_if_lower_scores_had_never_been(agnostic: bool) -> None:
    rng = np.random.default_rng(5)
    boxes = rng.uniform(0, 40, (400, 4)).astype(np.float32)
    boxes[:, 2:] = boxes[:, :2] + rng.uniform(5, 20, (400, 2)).astype(np.float32)
    scores = rng.uniform(0.3, 1, 400).astype(np.float32)
    class_ids = rng.integers(0, 3, 400).astype(np.int32)
    floors = np.array([0.5, np.inf, 0.8], np.float32)
    kept = scores >= floors[class_ids]
    found = []
    for chosen, limits in ((np.ones(400, bool), floors), (kept, None)):
        candidates = Candidates(3, 0.45, False, agnostic, 30000, 20)
        if limits is not None:
            candidates.set_floors(limits)
        candidates.extend(boxes[chosen], scores[chosen], class_ids[chosen])
        found.append(candidates.arrays(100, 100, 1, 1, 0, 0))
    for with_floors, without in zip(*found, strict=True):
        np.testing.assert_array_equal(with_floors, without)
    assert 0 < len(found[0][1]) <= 20


def test_floors_when_there_is_not_one_for_each_class_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted 3 floors, got 2"):
        Candidates(3, 0.45, False, False, 100, 100).set_floors(np.zeros(2, np.float32))
