"""Top-k of a classifier."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from qzd_ext.classify import best_classes
from qzd_ext.errors import DeviceError

Activation = Literal["softmax", "sigmoid", "none"]


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
    activation: Activation, background: bool, values: list[float], ids: list[int], scores: list[float]
) -> None:
    found = best_classes(np.array(values, np.float32), activation, background, 2)
    assert found.class_ids.tolist() == ids
    np.testing.assert_allclose(found.scores, np.array(scores, np.float32), rtol=1e-6)


def test_best_classes_are_in_the_order_of_their_index_when_scores_tie() -> None:
    found = best_classes(np.full(1000, 3.0, np.float32), "softmax", False, 5)
    assert found.class_ids.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("activation", "values"),
    [
        ("softmax", [np.nan, 1]),
        ("softmax", [np.inf, 1]),
        ("softmax", [-np.inf, -np.inf]),
        ("sigmoid", [1, np.nan]),
        ("sigmoid", [1, np.inf]),
        ("none", [0.5, np.nan]),
        ("none", [1.03, 0]),
        ("none", [-0.03, 0]),
    ],
)
@pytest.mark.parametrize("background", [False, True])
def test_best_classes_is_an_error_when_a_score_is_unsound(
    activation: Activation, background: bool, values: list[float]
) -> None:
    with pytest.raises(DeviceError, match="no sound model"):
        best_classes(np.array(values, np.float32), activation, background, 5)


def test_best_classes_takes_what_rounding_adds_and_a_class_that_is_ruled_out() -> None:
    assert best_classes(np.array([1.01, -0.01], np.float32), "none", False, 2).scores.tolist() == [1, 0]
    assert best_classes(np.array([3, -np.inf], np.float32), "softmax", False, 2).scores.tolist() == [1, 0]
