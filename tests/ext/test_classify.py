"""Top-k of a classifier."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from qzd_ext.classify import best_classes


@pytest.mark.parametrize(
    ("activation", "background", "values", "ids", "scores"),
    [
        ("none", False, [0.1, 0.6, 0.3], [1, 2], [0.6, 0.3]),
        ("none", True, [0.9, 0.02, 0.08], [1, 0], [0.08, 0.02]),
        ("sigmoid", False, [0.0, -1000.0, 1000.0], [2, 0], [1.0, 0.5]),
        ("softmax", False, [1000.0, 1000.0, -1000.0], [0, 1], [0.5, 0.5]),
        ("softmax", True, [np.log(2), 0.0, 0.0], [0, 1], [0.25, 0.25]),
        ("softmax", False, [5.0], [0], [1.0]),
    ],
)
def test_best_classes_when(
    activation: Literal["softmax", "sigmoid", "none"],
    background: bool,
    values: list[float],
    ids: list[int],
    scores: list[float],
) -> None:
    found = best_classes(np.array(values, np.float32), activation, background, 2)
    assert found.class_ids.tolist() == ids
    np.testing.assert_allclose(found.scores, np.array(scores, np.float32), rtol=1e-6)


def test_best_classes_are_in_the_order_of_their_index_when_scores_tie() -> None:
    found = best_classes(np.full(1000, 3.0, np.float32), "softmax", False, 5)
    assert found.class_ids.tolist() == [0, 1, 2, 3, 4]


def test_best_classes_leaves_out_and_counts_what_is_not_finite() -> None:
    values = np.array([np.nan, 1, np.inf, 0, -np.inf, np.nan], np.float32)
    found = best_classes(values, "softmax", True, 5)
    assert (found.class_ids.tolist(), found.dropped_nonfinite) == ([0, 2], 3)
    np.testing.assert_allclose(found.scores, [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))], rtol=1e-6)


def test_best_classes_is_empty_when_nothing_is_finite() -> None:
    found = best_classes(np.full(3, np.nan, np.float32), "softmax", False, 5)
    assert (len(found), found.dropped_nonfinite) == (0, 3)
