"""pycocotools' COCOeval, spared the boxes that touch no object of their class: the same figures, sooner.

Most boxes of a detector at low confidence overlap nothing by half, so that no threshold can match them.
COCOeval tries each of them against every object at ten thresholds and four sizes. Here it is given the
others, and those are added to what it says as what they are: not matched.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

__all__ = ["Evaluation"]

Pair = tuple[int, int]
"""Image id and category id."""


class Evaluation(COCOeval):  # type: ignore[misc]
    """COCOeval; `evaluate` calls the two methods below, in this order, for every pair."""

    def __init__(self, truth: Any, found: Any) -> None:
        super().__init__(truth, found, "bbox")
        self._ranked: dict[Pair, list[dict[str, Any]]] = {}
        self._near: dict[Pair, np.typing.NDArray[np.intp]] = {}

    def computeIoU(self, imgId: int, catId: int) -> Any:  # noqa: N802, N803 - names of pycocotools
        """Overlaps of the boxes that may match, (n, objects); the others are put aside."""
        pair = imgId, catId
        overlaps = np.asarray(super().computeIoU(imgId, catId), np.float64)
        boxes = self._dts[pair]
        best_first = np.argsort([-box["score"] for box in boxes], kind="mergesort")
        ranked = [boxes[i] for i in best_first[: self.params.maxDets[-1]]]
        near = np.zeros(0, np.intp)
        if overlaps.size:
            near = np.flatnonzero(overlaps.max(axis=1) >= min(self.params.iouThrs[0], 1 - 1e-10))
            overlaps = overlaps[near]
        self._ranked[pair], self._near[pair] = ranked, near
        self._dts[pair] = [ranked[i] for i in near]
        return overlaps if len(near) else []

    def evaluateImg(self, imgId: int, catId: int, aRng: list[float], maxDet: int) -> Any:  # noqa: N802, N803
        """Return what COCOeval says of a pair, with the boxes that were put aside in their places again."""
        pair = imgId, catId
        ranked, near = self._ranked[pair], self._near[pair]
        said = super().evaluateImg(imgId, catId, aRng, maxDet)
        if len(near) == len(ranked):
            return said
        thresholds = len(self.params.iouThrs)
        areas = np.array([box["area"] for box in ranked])
        ignored = np.tile((areas < aRng[0]) | (areas > aRng[1]), (thresholds, 1))
        matches = np.zeros(ignored.shape)
        if said is None:
            said = {"gtIds": [], "gtMatches": np.zeros((thresholds, 0)), "gtIgnore": np.zeros(0)}
        else:
            matches[:, near], ignored[:, near] = said["dtMatches"], said["dtIgnore"]
        ids, scores = [box["id"] for box in ranked], [box["score"] for box in ranked]
        return said | {"dtIds": ids, "dtScores": scores, "dtMatches": matches, "dtIgnore": ignored}
