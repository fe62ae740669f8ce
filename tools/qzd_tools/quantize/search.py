"""When the plain recipe costs too much accuracy: what else to try, in which order, and for how long."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import openvino as ov

from qzd_ext.errors import DeviceError, ModelError
from qzd_ext.geometry import Frame
from qzd_tools.graph.structure import weighted_layers
from qzd_tools.progress import progress
from qzd_tools.quantize.recipe import Recipe
from qzd_tools.quantize.revert import revert_layers
from qzd_tools.validate.run import Validation

__all__ = ["RANKING_IMAGES", "Attempt", "Judgement", "Make", "escalate", "rank_layers"]

RANKING_IMAGES = 8

Make = Callable[[], ov.Model]
"""Makes the INT8 graph of a step, which takes its time."""


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What was measured of an INT8 graph.

    Attributes
    ----------
    drop : float
        By which the main figure is below that of the float model; its upper bound if a certainty is asked.
    validation : Validation or None
    """

    drop: float
    validation: Validation | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """One INT8 graph and what it costs.

    Attributes
    ----------
    model : ov.Model
    recipe : Recipe
    reverted : tuple of str
        Layers that were put back to float afterwards.
    judgement : Judgement
    seconds : float
        What it took, quantizing and measuring.
    """

    model: ov.Model
    recipe: Recipe
    reverted: tuple[str, ...]
    judgement: Judgement
    seconds: float

    @property
    def drop(self) -> float:
        """What it loses."""
        return self.judgement.drop


def escalate(
    plain: Attempt,
    limit: float,
    budget: float,
    quantize: Callable[[Recipe], ov.Model],
    judge: Callable[[ov.Model, Recipe, tuple[str, ...]], Judgement],
    reverts: Callable[[Attempt, float], Iterator[tuple[tuple[str, ...], Make]]],
    say: Callable[[str], None],
) -> Attempt:
    """Try stronger recipes until one keeps within the limit or the time is over.

    Parameters
    ----------
    plain : Attempt
        What missed the limit; its recipe says "float" where the head's last layers are.
    limit : float
        The drop that is allowed.
    budget : float
        Seconds; a step that would go beyond, if it takes as long as the one before it, is not begun.
    quantize : callable
        From a recipe to an INT8 graph. A step in which it or `judge` raises ModelError or DeviceError is
        told and passed over.
    judge : callable
        From an INT8 graph, its recipe and its reverted layers to what was measured of it.
    reverts : callable
        From an attempt, and the seconds that may go into ranking its layers, to more and more of them,
        each with what makes the graph in which they are float.
    say : callable
        Told of each step.

    Returns
    -------
    Attempt
        The best so far: the first within the limit, or the one with the least drop.
    """
    best, seconds = plain, plain.seconds
    begin = time.monotonic()
    steps = _steps(plain, lambda: best, quantize, reverts, lambda: budget - (time.monotonic() - begin))
    while best.drop > limit:
        if time.monotonic() - begin + seconds > budget:
            say(f"the time budget of {budget:g} s has no room for another step, of some {seconds:.0f} s")
            break
        step = next(steps, None)
        if step is None:
            break
        step_begin = time.monotonic()  # ranking layers, which is done once, is not counted as a step
        name, recipe, reverted, make = step
        try:
            model = make()
            judgement = judge(model, recipe, reverted)
        except (DeviceError, ModelError) as error:
            say(f"{name}: {error.found}")
            continue
        seconds = time.monotonic() - step_begin
        say(f"{name}: drop {judgement.drop:+.4f} ({seconds:.0f} s)")
        if judgement.drop < best.drop:
            best = Attempt(model, recipe, reverted, judgement, seconds)
    return best


def _steps(
    plain: Attempt,
    best: Callable[[], Attempt],
    quantize: Callable[[Recipe], ov.Model],
    reverts: Callable[[Attempt, float], Iterator[tuple[tuple[str, ...], Make]]],
    left: Callable[[], float],
) -> Iterator[tuple[str, Recipe, tuple[str, ...], Make]]:
    if plain.recipe.head_layers != "float":
        recipe = dataclasses.replace(plain.recipe, head_layers="float")
        yield "the head's last layers in float", recipe, (), functools.partial(quantize, recipe)
    recipe = dataclasses.replace(best().recipe, smooth_quant=True)
    yield "smooth quantization", recipe, (), functools.partial(quantize, recipe)
    if plain.recipe.fast_bias_correction:
        recipe = dataclasses.replace(best().recipe, fast_bias_correction=False)
        yield "accurate bias correction", recipe, (), functools.partial(quantize, recipe)
    base = best()
    for reverted, make in reverts(base, left() / 2):
        layers = (*base.reverted, *reverted)
        yield f"{len(reverted)} layers that cost most in float", base.recipe, layers, make


def rank_layers(
    quantized: ov.Model,
    original: ov.Model,
    images: Sequence[Frame],
    device: str = "CPU",
    seconds: float = math.inf,
) -> list[str]:
    """Order quantized layers by how near the results come to the original's with each in float.

    Parameters
    ----------
    quantized, original : ov.Model
    images : sequence of (1, H, W, 3) uint8
        Inputs to compare the results on.
    device : str
    seconds : float
        Layers that are not tried by then are left out.
    """
    end = time.monotonic() + seconds
    core = ov.Core()
    inputs = images[:RANKING_IMAGES]

    def results(model: ov.Model) -> list[list[np.ndarray]]:
        compiled = core.compile_model(model, device, {"PERFORMANCE_HINT": "LATENCY"})
        return [[np.array(v) for v in compiled(image).values()] for image in inputs]

    wanted = results(original)

    def distance(model: ov.Model) -> float:
        pairs = [p for w, g in zip(wanted, results(model), strict=True) for p in zip(w, g, strict=True)]
        return float(np.mean([np.mean((g - w) ** 2) / (np.mean(w**2) + 1e-12) for w, g in pairs]))

    names = [node.get_friendly_name() for node in weighted_layers(quantized) if _activation_quantizer(node)]
    scores = []
    with progress("ranking layers", len(names)) as step:
        for name in names:
            if time.monotonic() > end:
                break
            with contextlib.suppress(RuntimeError):  # the plugin may not take a graph that it took before
                scores.append((distance(revert_layers(quantized, original, [name])), name))
            step(name)
    return [name for _, name in sorted(scores)]


def _activation_quantizer(node: ov.Node) -> ov.Node | None:
    source = node.input_value(0).get_node()
    return source if source.get_type_name() == "FakeQuantize" else None
