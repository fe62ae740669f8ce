"""`qzd-tools prepare`: all steps, from a model's name to its report."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from click.core import ParameterSource

from qzd_ext.errors import DataError, GateError, UsageError
from qzd_ext.options import Finite
from qzd_tools.commands import DIRECTORY, json_option, precision_option, say, write_json
from qzd_tools.commands.catalogue import catalogue_option, load_checked
from qzd_tools.commands.convert import command as convert_command
from qzd_tools.commands.download import origin_options

if TYPE_CHECKING:
    from qzd_ext.manifest import Manifest
    from qzd_tools.convert.run import ConvertOptions
    from qzd_tools.data.coco import Dataset
    from qzd_tools.download.catalogue import Entry
    from qzd_tools.prepare.run import Prepared
    from qzd_tools.quantize.run import Mode

__all__ = ["command"]

MODES: tuple[Mode, ...] = ("fp16", "int8-weights", "int8")
ANY = click.Path(path_type=Path)


@click.command()
@click.argument("model", nargs=-1, required=True)
@click.option("--calibration", required=True, type=ANY, help="Images, or COCO annotations with images/.")
@click.option("--validation", required=True, type=ANY, help="COCO annotations, or an ImageNet list.")
@click.option("--validation-images", type=DIRECTORY, help="[default: images/ beside the list]")
@click.option("-o", "--output", type=DIRECTORY, help="Everything is made in here.  [default: ./NAME]")
@click.option("--convert", "convert_flags", default="", help="Options of `qzd-tools convert`, in quotes.")
@click.option("--mode", "modes", multiple=True, type=click.Choice(MODES), help="To make.  [default: all]")
@click.option("--max-drop", type=Finite(0, 1), help="How much mAP or top-1 INT8 may lose.")
@click.option("--time-budget", type=Finite(0), default=1800.0, show_default=True,
              help="Seconds to search where INT8 loses more.")
@click.option("--seconds", type=Finite(0.2), default=10.0, show_default=True,
              help="Of the benchmark, for each bundle.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Turns it is cut into.")
@click.option("--allow-overlap", is_flag=True, help="Let images be in both sets.")
@click.option("--compare", is_flag=True, help="Run OpenVINO's benchmark_app in turn.")
@click.option("--device", default="CPU", show_default=True, help="Where to measure.")
@precision_option
@catalogue_option
@origin_options
@json_option
def command(model: tuple[str, ...], json_file: Path | None, **given: Any) -> None:
    """Download, convert, quantize, validate, benchmark and report MODEL.

    MODEL is a name of the catalogue or the files of a model. A run that was stopped goes on where it was;
    what is done is recognised by its digests and not done again.
    """
    from qzd_ext.runner import RunOptions
    from qzd_tools.download.http import Patience
    from qzd_tools.download.run import Origin
    from qzd_tools.prepare.run import Plan, prepare

    if not given["validation"].exists():
        raise DataError(f"{given['validation']}: no such file", fix="correct --validation")
    name, entry, sources = _meant(model, given["catalogue_file"])
    plan = Plan(
        name=name,
        output=given["output"] or Path(name),
        entry=entry,
        sources=sources,
        convert=_convert_options(given["convert_flags"], entry),
        calibration=_calibration(given["calibration"]),
        dataset=lambda manifest: _validation(manifest, given["validation"], given["validation_images"]),
        modes=tuple(mode for mode in MODES if mode in (given["modes"] or MODES)),
        max_drop=given["max_drop"],
        time_budget=given["time_budget"],
        allow_overlap=given["allow_overlap"],
        seconds=given["seconds"],
        rounds=given["rounds"],
        compare=given["compare"],
        options=RunOptions(device=given["device"], precision=given["precision"]),
        origin=Origin(given["mirrors"], given["from_directory"], given["unverified"]),
        patience=Patience(stall_seconds=given["stall"], attempts=given["attempts"]),
    )
    done = prepare(plan, say)
    _tell(done)
    write_json(json_file, _document(done))
    if done.missed:
        raise GateError(done.missed)


def _meant(model: tuple[str, ...], catalogue_file: Path | None) -> tuple[str, Entry | None, tuple[Path, ...]]:
    """Give the model's name, and its entry of the catalogue or its files."""
    from qzd_tools.download.catalogue import find

    catalogue = load_checked(catalogue_file)
    paths = tuple(Path(word) for word in model)
    if paths[0].exists() and model[0] not in catalogue:
        return paths[0].resolve().stem, None, paths
    if len(model) > 1:
        raise UsageError(f"{' '.join(model)}: one name of the catalogue is wanted, or the files of a model")
    return model[0], find(catalogue, model[0]), ()


def _convert_options(flags: str, entry: Entry | None) -> ConvertOptions:
    """Merge what the catalogue states with the flags of convert, which win."""
    from qzd_tools.convert.run import ConvertOptions

    stated: dict[str, Any] = dict(entry.convert) if entry is not None else {}
    try:
        words = shlex.split(flags)
    except ValueError as error:
        raise UsageError(f"--convert {flags!r}: {error}") from error
    with convert_command.make_context("convert", [*words, "MODEL"]) as context:
        for key, value in context.params.items():
            if context.get_parameter_source(key) is not ParameterSource.COMMANDLINE or key == "model":
                continue
            if key in ("output", "json_file", "golden", "name", "overwrite"):
                raise UsageError(f"--convert: --{key.removesuffix('_file')} is prepare's own to give")
            stated[key] = value
    try:
        return msgspec.convert(stated, ConvertOptions)
    except msgspec.ValidationError as error:
        raise DataError(f"the catalogue's `convert`: {error}", fix="mend the key that is named") from error


def _calibration(path: Path) -> tuple[Path, ...]:
    from qzd_tools.data.coco import read_coco
    from qzd_tools.data.images import list_images

    if path.is_dir():
        return tuple(list_images(path))
    return tuple(picture.path for picture in read_coco(path).pictures)


def _validation(manifest: Manifest, path: Path, images: Path | None) -> Dataset:
    from qzd_tools.commands.validate import dataset_for

    if manifest.task == "detection":
        return dataset_for(manifest, path, None, images)
    return dataset_for(manifest, None, path, images)


def _tell(done: Prepared) -> None:
    from qzd_tools.report import read_results
    from qzd_tools.report.tables import all_tables, summary, verdict

    found = read_results(done.results)
    say("")
    table = all_tables(found)[0]
    widths = [max(len(row[i]) for row in (table.header, *table.rows)) for i in range(len(table.header))]
    for row in (table.header, *table.rows):
        say("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)))
    say(summary(found))
    say(verdict(found))
    for name, bundle in done.bundles.items():
        say(f"{name:>14}: {bundle.path} {bundle.digest}")
    again = [step for step, fresh in done.fresh.items() if not fresh]
    say(f"{len(done.fresh)} steps, {len(again)} of them done already; report: {done.report}")


def _document(done: Prepared) -> dict[str, Any]:
    return {
        "bundles": {n: {"path": str(b.path), "digest": b.digest} for n, b in done.bundles.items()},
        "results": [str(path) for path in done.results],
        "report": str(done.report),
        "steps": {name: "done" if fresh else "there" for name, fresh in done.fresh.items()},
        "missed": done.missed,
    }
