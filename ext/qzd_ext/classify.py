"""From a classifier's scores to its best classes.

It is NumPy: there is one row per frame.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from qzd_ext.detections import Classes, FloatArray
from qzd_ext.errors import DeviceError

__all__ = ["best_classes"]

Doubles = npt.NDArray[np.float64]

SLACK = 0.02  # what bf16 and 8 bits may add to a score of 0 or 1


def best_classes(
    values: FloatArray, activation: Literal["softmax", "sigmoid", "none"], background: bool, k: int
) -> Classes:
    """Return the k best classes, best first, equal ones by lower index.

    Parameters
    ----------
    values : (C + background,) float32
        Logits, or probabilities if `activation` is none.
    activation : str
        What is still to be applied.
    background : bool
        The first value is the background's: it takes part in the softmax and is not among the classes.
    k : int
        How many classes at most.

    Raises
    ------
    DeviceError
        A score is not finite or not in 0..1.
    """
    scores = _activate(values.astype(np.float64), activation)
    invalid = ~((scores >= -SLACK) & (scores <= 1 + SLACK))
    if invalid.any():
        raise DeviceError(
            f"the model gave {invalid.sum()} scores that no sound model gives",
            wanted="finite scores in 0..1",
            fix="run the self-test; if it fails, use another device or precision, else convert again",
        )
    classes = np.clip(scores[int(background) :], 0, 1).astype(np.float32)
    best = np.argsort(-classes, kind="stable")[:k]
    return Classes(classes[best], best.astype(np.int32))


def _activate(values: Doubles, activation: str) -> Doubles:
    """Probabilities; NaN for values that have none."""
    if activation == "none":
        return values
    with np.errstate(invalid="ignore"):
        if activation == "softmax":
            weights: Doubles = np.exp(values - values.max())
            return np.asarray(weights / weights.sum())
        scores: Doubles = 1 / (1 + np.exp(np.minimum(-values, 700.0)))  # beyond 700 exp overflows
        return np.where(values == np.inf, np.nan, scores)
