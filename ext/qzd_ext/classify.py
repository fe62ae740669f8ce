"""A classifier's scores to its best classes.

What may live here: activation and top-k of one row of scores. It is NumPy: there is one row a frame.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from qzd_ext.detections import Classes, FloatArray

__all__ = ["best_classes"]

Doubles = npt.NDArray[np.float64]


def best_classes(
    values: FloatArray, activation: Literal["softmax", "sigmoid", "none"], background: bool, k: int
) -> Classes:
    """The k best classes, best first, equal ones by lower index.

    Parameters
    ----------
    values : (C + background,) float32
        Logits, or probabilities where `activation` is none. Those that are NaN or infinite are left out
        and counted, and take no part in the softmax.
    activation : str
        What is still to be applied.
    background : bool
        The first value is the background's: it takes part in the softmax and is not among the classes.
    k : int
        How many classes at most.
    """
    finite = np.isfinite(values)
    scores = np.zeros(len(values), np.float64)
    scores[finite] = _activate(values[finite].astype(np.float64), activation)
    scores, finite = scores[int(background) :], finite[int(background) :]
    ids = np.flatnonzero(finite)
    best = ids[np.argsort(-scores[ids].astype(np.float32), kind="stable")[:k]]
    return Classes(
        scores[best].astype(np.float32), best.astype(np.int32), dropped_nonfinite=len(finite) - len(ids)
    )


def _activate(values: Doubles, activation: str) -> Doubles:
    if activation == "none" or not len(values):
        return values
    if activation == "softmax":
        weights: Doubles = np.exp(values - values.max())
        return np.asarray(weights / weights.sum())
    return np.asarray(1 / (1 + np.exp(np.minimum(-values, 700.0))))  # beyond 700 exp overflows
