"""The search for a recipe: its order, its end, and its time."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator

import openvino as ov

from qzd_ext.errors import DeviceError, ModelError
from qzd_tools.quantize.recipe import Recipe
from qzd_tools.quantize.search import Attempt, Judgement, Make, escalate
from support.painted_model import build_painted

MODEL = build_painted()
PLAIN = Attempt(MODEL, Recipe(head_layers="float"), (), Judgement(0.5), seconds=0.0)


def search(
    drops: list[float | Exception], said: list[str], budget: float = 60.0, failing: str = ""
) -> Attempt:
    """Search with steps that have these drops; ranking takes the time that it may, at most half a second."""

    def quantize(recipe: Recipe) -> ov.Model:
        if failing and getattr(recipe, failing):
            raise ModelError("it cannot be done")
        return MODEL

    def reverts(_: Attempt, seconds: float) -> Iterator[tuple[tuple[str, ...], Make]]:
        time.sleep(min(seconds, 0.5))
        for count in (1, 2, 4):
            yield ("layer",) * count, functools.partial(quantize, Recipe())

    def judge(*_: object) -> Judgement:
        drop = drops.pop(0)
        if isinstance(drop, Exception):
            raise drop
        return Judgement(drop)

    return escalate(PLAIN, 0.1, budget, quantize, judge, reverts, said.append)


def test_search_goes_on_after_a_ranking_that_took_its_half_of_the_time() -> None:
    said: list[str] = []
    best = search([0.4, 0.4, 0.3, 0.2, 0.2], said, budget=1.0)
    assert [text.partition(" layers")[0] for text in said[2:]] == ["1", "2", "4"]
    assert (best.drop, len(best.reverted)) == (0.2, 2)


def test_search_passes_over_a_step_that_cannot_be_done() -> None:
    said: list[str] = []
    best = search([0.3, 0.05], said, failing="smooth_quant")
    assert said[0] == "smooth quantization: it cannot be done"
    assert [text.partition(":")[0] for text in said[1:]] == [
        "accurate bias correction", "1 layers that cost most in float",
    ]  # fmt: skip
    assert (best.drop, best.recipe.fast_bias_correction) == (0.05, False)


def test_search_passes_over_a_step_whose_graph_the_device_does_not_take() -> None:
    said: list[str] = []
    best = search([0.3, DeviceError("it cannot be compiled"), 0.2, 0.05], said)
    assert said[1] == "accurate bias correction: it cannot be compiled"
    assert (best.drop, len(best.reverted)) == (0.05, 2)


def test_search_keeps_the_plain_recipe_when_nothing_is_better() -> None:
    assert search([0.6, 0.5, 0.7, 0.6, 0.5], []) is PLAIN
