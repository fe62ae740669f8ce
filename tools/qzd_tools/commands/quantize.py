"""`qzd-tools quantize`: a smaller bundle, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from qzd_ext.errors import UsageError
from qzd_ext.options import Finite
from qzd_tools.commands import BUNDLE, DIRECTORY, FILE, json_option, precision_option, say, write_json
from qzd_tools.system.isa import TARGETS

if TYPE_CHECKING:
    from qzd_ext.manifest import Manifest
    from qzd_tools.quantize.run import Gate, Quantized

__all__ = ["command"]

MODES = ("int8", "int8-weights", "fp16")

SLOWER = 0.92
"""Part of the float model's throughput below which a short measurement says that it is slower; one model
measured against itself in this way gave 0.95 to 1.16 of its own speed."""

RECIPE = (
    "subset_size", "preset", "target_isa", "ignored_names", "ignored_patterns", "ignored_types",
    "model_type", "fast_bias_correction", "head_layers",
)  # fmt: skip
"""The options that are fields of `Recipe`."""

INT8_ONLY = (*RECIPE, "images", "annotations", "seed", "allow_overlap", "time_budget", "quick", "prefer")
"""What has no meaning where nothing is calibrated, and so nothing is searched for."""


@click.command()
@click.argument("bundle", type=BUNDLE)
@click.option("-o", "--output", type=BUNDLE, help="The new bundle.  [default: BUNDLE-MODE beside it]")
@click.option("--mode", type=click.Choice(MODES), default="int8", show_default=True)
@click.option(
    "--images",
    type=DIRECTORY,
    help="Images to calibrate with, or where those of --annotations lie, if not in images/ beside them.",
)
@click.option("--annotations", type=FILE, help="COCO annotations whose images to calibrate with.")
@click.option("--subset-size", type=click.IntRange(3), default=300, show_default=True, help="Most of them.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="For choosing among more.")
@click.option("--preset", type=click.Choice(["mixed", "performance"]), default="mixed", show_default=True)
@click.option(
    "--target-isa",
    type=click.Choice(TARGETS),
    default="any",
    show_default=True,
    help="CPUs that it will run on; any is safe everywhere, vnni uses all bits of the weights.",
)
@click.option("--ignored-name", "ignored_names", multiple=True, help="An operation to leave in float.")
@click.option("--ignored-pattern", "ignored_patterns", multiple=True, help="A regular expression of names.")
@click.option("--ignored-type", "ignored_types", multiple=True, help="A type of operation, as Multiply.")
@click.option("--model-type", type=click.Choice(["transformer"]), help="Patterns to look for.")
@click.option("--fast-bias-correction/--no-fast-bias-correction", default=True, show_default=True)
@click.option(
    "--head-layers",
    type=click.Choice(["auto", "float", "int8"]),
    default="auto",
    show_default=True,
    help="The layers that make boxes and scores; auto leaves them in float where they are few.",
)
@click.option("--quick", is_flag=True, help="Make the plain recipe, without choosing among candidates.")
@click.option(
    "--prefer",
    type=click.Choice(["speed", "accuracy"]),
    default="speed",
    show_default=True,
    help="Choose the fastest candidate that agrees with float, or the closest.",
)
@click.option("--validation-annotations", type=FILE, help="COCO annotations to measure before and after.")
@click.option("--validation-imagenet", type=click.Path(path_type=Path), help="The same for a classifier.")
@click.option("--validation-images", type=DIRECTORY, help="Where those images lie, if not in images/ beside.")
@click.option("--max-drop", type=Finite(0, 1), help="How much mAP or top-1 may be lost.")
@click.option("--max-disagreement", type=Finite(0, 1), help="How much it may disagree with the float model.")
@click.option("--certainty", type=Finite(0.5, 0.9999), help="Let gates hold only with this certainty.")
@click.option("--time-budget", type=Finite(0), help="Seconds to search.  [default: 1800]")
@click.option("--allow-overlap", is_flag=True, help="Let images be in both sets.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
@click.option("--device", default="CPU", show_default=True, help="Where to measure.")
@precision_option
@json_option
def command(
    bundle: Path,
    output: Path | None,
    mode: Any,
    images: Path | None,
    annotations: Path | None,
    json_file: Path | None,
    **given: Any,
) -> None:
    """Make a smaller bundle of the float one in BUNDLE.

    int8 quantizes activations and weights and needs images like those that the model will see;
    int8-weights and fp16 need none. The head's arithmetic stays in float, and weights are fitted so
    that the result is right on any CPU. With validation data, what is lost is measured and written into
    the bundle, and --max-drop makes it a gate: exit code 1 where the search ends above it.
    """
    from qzd_ext import bundle as bundles
    from qzd_ext.runner import RunOptions
    from qzd_tools.quantize.recipe import Recipe
    from qzd_tools.quantize.run import GateMissedError, accuracy_figures, quantize

    parent = bundles.read(bundle)
    recipe = Recipe(**{name: given[name] for name in RECIPE})
    _check_data(mode, images, annotations)
    try:
        result = quantize(
            parent,
            output or _beside(bundle, mode),
            mode=mode,
            recipe=recipe,
            prefer=None if given["quick"] else given["prefer"],
            images=_calibration_images(images, annotations) if mode == "int8" else (),
            seed=given["seed"],
            gate=_gate(parent.manifest, given),
            allow_overlap=given["allow_overlap"],
            overwrite=given["overwrite"],
            options=RunOptions(device=given["device"], precision=given["precision"]),
            say=say,
        )
    except GateMissedError as error:
        figures = accuracy_figures(error.before, error.after, error)
        write_json(json_file, {"bundle": None, "parent": parent.digest} | figures)
        raise
    say(_describe(result))
    write_json(json_file, result.as_json())
    if result.missed is not None:
        raise result.missed


def _beside(bundle: Path, mode: str) -> Path:
    """BUNDLE-MODE; `.` and `..` stand for directories with names."""
    named = bundle if bundle.name not in {"", ".."} else bundle.resolve()
    return named.with_name(f"{named.name}-{mode}")


def _check_data(mode: str, images: Path | None, annotations: Path | None) -> None:
    if mode == "int8" and images is None and annotations is None:
        raise UsageError(
            "--mode int8 without images to calibrate with",
            wanted="some 300 images like those that the model will see",
            fix="name them with --images DIR or --annotations FILE, or choose --mode int8-weights",
        )
    context = click.get_current_context()
    for name in INT8_ONLY if mode != "int8" else ():
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = next(p for p in context.command.params if p.name == name)
            found = f"{option.opts[0]} with --mode {mode}"
            raise UsageError(found, fix="leave it out: it is for --mode int8")


def _calibration_images(images: Path | None, annotations: Path | None) -> list[Path]:
    from qzd_tools.data.coco import read_coco
    from qzd_tools.data.images import list_images

    if annotations is not None:
        return [picture.path for picture in read_coco(annotations, images).pictures]
    assert images is not None
    return list_images(images)


def _gate(manifest: Manifest, given: dict[str, Any]) -> Gate | None:
    from qzd_tools.commands.validate import dataset_for
    from qzd_tools.quantize.run import Gate

    annotations, imagenet = given["validation_annotations"], given["validation_imagenet"]
    if annotations is None and imagenet is None:
        for option in ("max_drop", "max_disagreement", "certainty", "time_budget", "validation_images"):
            if given[option] is not None:
                raise UsageError(
                    f"--{option.replace('_', '-')} without validation data",
                    fix="name it: --validation-annotations FILE, or --validation-imagenet LABELS",
                )
        return None
    if given["time_budget"] is not None and given["max_drop"] is None:
        raise UsageError("--time-budget without --max-drop", fix="say what may be lost: --max-drop 0.01")
    dataset = dataset_for(manifest, annotations, imagenet, given["validation_images"])
    budget = {} if given["time_budget"] is None else {"time_budget": given["time_budget"]}
    limits = {name: given[name] for name in ("max_drop", "max_disagreement", "certainty")}
    return Gate(dataset=dataset, **limits, **budget)


def _describe(result: Quantized) -> str:
    ours, theirs, speed = result.bundle, result.parent, result.speed
    lines = [
        f"written: {ours.path}",
        f"  size        {theirs.size / 1e6:8.2f} -> {ours.size / 1e6:8.2f} MB",
        f"  throughput  {speed.before:8.1f} -> {speed.after:8.1f} inferences per second on this machine",
    ]
    if result.before is not None and result.after is not None:
        before, after = result.before.score.metrics, result.after.score.metrics
        for name, value in list(before.items())[:2]:
            lines.append(f"  {name:<10}  {value or 0:8.4f} -> {after[name] or 0:8.4f}")
    if speed.after < SLOWER * speed.before:
        lines.append(
            "warning: it is slower than float on this machine, "
            f"{speed.after:.1f} against {speed.before:.1f} per second; serve the "
            "float bundle here, or measure on the machine that will serve"
        )
    return "\n".join(lines)
