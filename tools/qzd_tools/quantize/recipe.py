"""How a float graph becomes an INT8 one: the parameters that NNCF is given, and why."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import openvino as ov

from qzd_ext.errors import ModelError
from qzd_ext.geometry import Frame
from qzd_tools.data.images import evenly
from qzd_tools.graph.structure import find_head, is_quantized, match_names, match_patterns, match_types
from qzd_tools.progress import watched
from qzd_tools.quantize.bias import correct_biases, input_means, weights_of
from qzd_tools.quantize.overflow import limit_weights
from qzd_tools.quantize.revert import revert_layers
from qzd_tools.system.isa import saturates

__all__ = [
    "Recipe",
    "apply_recipe",
    "ignored_operations",
    "make_names_unique",
    "nncf_parameters",
    "quiet_nncf",
    "settled",
]

BIAS_IMAGES = 64
"""Images that the mean inputs of layers are measured on."""

SMOOTHING = {"convolution": 0.5, "matmul": 0.95}
"""How much of an activation's range goes into the weights, 0..1; NNCF's own 0.95 for matrix products."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Parameters of one quantization; named as NNCF names them.

    Attributes
    ----------
    preset : "mixed" or "performance"
        mixed: activations with a zero point, which leaky activations and raw heads need.
    target_isa : str
        One of `isa.TARGETS`; if 8-bit products may overflow on it, weights are fitted by `overflow`.
    subset_size : int
    fast_bias_correction : bool
        By `bias`, from the rounding of the weights; else by NNCF, which runs the graph layer by layer.
    model_type : "transformer" or None
    ignored_names, ignored_patterns, ignored_types : tuple of str
        Left in float, besides the head's arithmetic.
    head_layers : "auto", "float" or "int8"
        The last weighted layers, which make boxes and scores: auto leaves them in float where they are a
        small part of the model, see `structure.HeadParts.is_cheap`.
    smooth_quant : bool
        Move the range of activations into the weights, where both are quantized.
    """

    preset: Literal["mixed", "performance"] = "mixed"
    target_isa: str = "any"
    subset_size: int = 300
    fast_bias_correction: bool = True
    model_type: Literal["transformer"] | None = None
    ignored_names: tuple[str, ...] = ()
    ignored_patterns: tuple[str, ...] = ()
    ignored_types: tuple[str, ...] = ()
    head_layers: Literal["auto", "float", "int8"] = "auto"
    smooth_quant: bool = False

    def as_record(self) -> dict[str, str | int | float | bool | list[str]]:
        """Write the recipe for a bundle's provenance."""
        return {
            "preset": self.preset,
            "subset_size": self.subset_size,
            "fast_bias_correction": self.fast_bias_correction,
            "model_type": self.model_type or "",
            "ignored_names": list(self.ignored_names),
            "ignored_patterns": list(self.ignored_patterns),
            "ignored_types": list(self.ignored_types),
            "weights": "pairs within 16 bits" if saturates(self.target_isa) else "8 bits",
            "head_arithmetic_in_float": True,
            "head_layers": self.head_layers,
            "smooth_quant": self.smooth_quant,
        }


def ignored_operations(model: ov.Model, recipe: Recipe) -> list[str]:
    """Names of what stays in float: the head, found by structure, and what the recipe names.

    Raises
    ------
    UsageError
        A name, pattern or type of the recipe matches nothing.
    """
    head = find_head(model)
    asked = match_names(model, recipe.ignored_names)
    asked += match_patterns(model, recipe.ignored_patterns)
    asked += match_types(model, recipe.ignored_types)
    keep = settled(model, recipe).head_layers == "float"
    return sorted({*head.arithmetic, *(head.layers if keep else ()), *asked})


def settled(model: ov.Model, recipe: Recipe) -> Recipe:
    """Replace "auto" by what it means for this graph."""
    if recipe.head_layers != "auto":
        return recipe
    return dataclasses.replace(recipe, head_layers="float" if find_head(model).is_cheap else "int8")


def make_names_unique(model: ov.Model) -> None:
    """Give operations that share a name names of their own; NNCF and the ignored ones go by name."""
    seen: set[str] = set()
    for index, node in enumerate(model.get_ordered_ops()):
        if node.get_friendly_name() in seen:
            node.set_friendly_name(f"{node.get_friendly_name()}_{index}")
        seen.add(node.get_friendly_name())


def apply_recipe(
    model: ov.Model, images: Sequence[Path], prepare: Callable[[Path], Frame], recipe: Recipe
) -> ov.Model:
    """Quantize a float graph with NNCF.

    Parameters
    ----------
    model : ov.Model
        With one u8 NHWC input; not changed.
    images : sequence of Path
        Calibration images.
    prepare : callable
        From a path to the input it makes, (1, H, W, 3) uint8, exactly as at run time.
    recipe : Recipe

    Returns
    -------
    ov.Model

    Raises
    ------
    UsageError
        A name, pattern or type of the recipe matches nothing.
    ModelError
        NNCF cannot quantize the graph, or finds nothing in it to quantize.
    """
    import nncf

    parameters = nncf_parameters(model, recipe)
    dataset, subset_size = nncf.Dataset(images, prepare), min(recipe.subset_size, len(images))
    try:
        with quiet_nncf():
            if recipe.smooth_quant:
                model = _smoothed(model, dataset, subset_size, ignored_operations(model, recipe))
            quantized = nncf.quantize(model, dataset, subset_size=subset_size, **parameters)
    except (nncf.ValidationError, nncf.InternalError, nncf.UnsupportedModelError, RuntimeError) as error:
        found = f"NNCF cannot quantize the model: {error}"
        raise ModelError(found, fix="leave the part that it names in float: --ignored-name") from error
    if not is_quantized(quantized):
        raise ModelError(
            "nothing in the model was quantized",
            wanted="convolutions or matrix products that are not left in float",
            fix="ignore less, choose --head-layers int8, or a --mode that needs no images",
        )
    _finish(quantized, model, [prepare(path) for path in evenly(images, BIAS_IMAGES)], recipe)
    return quantized


def _finish(quantized: ov.Model, original: ov.Model, inputs: Sequence[Frame], recipe: Recipe) -> None:
    """Fit the weights to CPUs without VNNI, if they are a target, and the biases to the weights, in place.

    NNCF's accurate bias correction was made with the weights as NNCF left them, so that only what has changed
    since then is corrected; without it, everything that rounding has changed.
    """
    fitted_to = weights_of(original) if recipe.fast_bias_correction else weights_of(quantized)
    if saturates(recipe.target_isa):
        limit_weights(quantized, original)
    correct_biases(quantized, fitted_to, input_means(original, inputs))


def nncf_parameters(model: ov.Model, recipe: Recipe) -> dict[str, Any]:
    """Give what `nncf.quantize` is called with, besides the model and the images.

    Raises
    ------
    UsageError
        A name, pattern or type of the recipe matches nothing.
    """
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters

    alphas = AdvancedSmoothQuantParameters()
    if recipe.smooth_quant:  # it is done before, see `_smoothed`
        alphas = AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    return {
        "preset": nncf.QuantizationPreset(recipe.preset),
        "fast_bias_correction": False,
        "model_type": nncf.ModelType(recipe.model_type) if recipe.model_type else None,
        "ignored_scope": nncf.IgnoredScope(names=ignored_operations(model, recipe), validate=False),
        "advanced_parameters": nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.DISABLE,  # `limit_weights` does it, and loses less
            disable_bias_correction=recipe.fast_bias_correction,  # `correct_biases` does the fast one
            smooth_quant_alphas=alphas,
        ),
    }


def _smoothed(model: ov.Model, dataset: Any, subset_size: int, ignored: Sequence[str]) -> ov.Model:
    """Copy a graph so that its layers divide their input by its range in each channel.

    `nncf.quantize` does this only for transformers, beside other things that are for them.
    """
    from nncf.quantization.algorithms.pipeline import Pipeline
    from nncf.quantization.algorithms.smooth_quant.algorithm import SmoothQuant

    smoothed = Pipeline([[SmoothQuant(subset_size, alpha_map=SMOOTHING)]]).run(model, dataset)
    return revert_layers(smoothed, model, ignored)


@contextlib.contextmanager
def quiet_nncf() -> Iterator[None]:
    """NNCF's bars on stderr where that is a terminal, and only its errors elsewhere."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    sink: Any = sys.stderr if watched() else io.StringIO()
    with contextlib.redirect_stdout(sink):
        yield
