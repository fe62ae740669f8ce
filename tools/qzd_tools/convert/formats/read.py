"""Model files into an OpenVINO graph: which reader reads what.

OpenVINO's frontends are called directly: `openvino.convert_model` would report to its maker.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import openvino as ov
from openvino.frontend import (
    GeneralFailure,
    InitializationFailure,
    NotImplementedFailure,
    OpConversionFailure,
    OpValidationFailure,
)

from qzd_ext.bundle import MANIFEST, MODEL, sha256_of
from qzd_ext.errors import ModelError, UsageError
from qzd_tools.convert.facts import Facts, Recognised
from qzd_tools.convert.formats import tflite
from qzd_tools.convert.formats.darknet import read_network
from qzd_tools.convert.formats.darknet_graph import build
from qzd_tools.convert.formats.sidecar import labels_beside, labels_inside, properties_of
from qzd_tools.graph.walk import core

__all__ = ["IR", "Source", "holds_model", "read_source", "refusals_told"]

IR = "OpenVINO IR"

FORMATS = {
    ".xml": (IR, ".bin"),
    ".onnx": ("ONNX", None),
    ".pb": ("TensorFlow frozen graph", None),
    ".tflite": ("TensorFlow Lite", None),
    ".pdmodel": ("PaddlePaddle", ".pdiparams"),
    ".cfg": ("Darknet", ".weights"),
}
"""By suffix: the format's name, and the suffix of the file that belongs beside it."""

REFUSALS = (
    RuntimeError, GeneralFailure, InitializationFailure, NotImplementedFailure, OpConversionFailure,
    OpValidationFailure,
)  # fmt: skip
"""What OpenVINO raises: a frontend that is called directly has exceptions of its own."""

EXTERNAL = re.compile(rb"\x0a\x08location\x12([\x80-\xff]?[\x00-\x7f])")
"""How an ONNX file names one that holds some of its tensors: protobuf's key, and the length of the name."""

SAVED_MODEL = "saved_model.pb"
"""Stands for its directory, where its variables are."""

NOISE = ("Exception from", "Check '", "FrontEnd API failed", "Summary:")
"""How lines of OpenVINO's messages begin that say where it was, not what was wrong."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A model as it was read, before anything was made of it.

    Attributes
    ----------
    model : ov.Model
    name : str
        The file's stem, or the directory's name.
    format : str
    files : dict of str to str
        sha256 by file name.
    recognised : Recognised or None
        Where the format itself says what the head is (Darknet, TFLite post-processing).
    """

    model: ov.Model
    name: str
    format: str
    files: dict[str, str] = field(repr=False)
    recognised: Recognised | None = None
    path: Path = field(default_factory=Path)
    """The model's file, or the directory of a SavedModel."""
    facts: Facts = field(default_factory=Facts)
    """Labels from a file beside the model or inside its own."""


def read_source(paths: Sequence[Path]) -> Source:
    """Read a model of any format.

    Parameters
    ----------
    paths : sequence of Path
        The model's file or SavedModel directory, and optionally the file that belongs to it, such as a
        Darknet `.cfg` and its `.weights`; without it, the one beside the first is taken.

    Raises
    ------
    UsageError
        The format is not known, or the files do not belong together.
    ModelError
        A file is missing or cannot be read.
    """
    main, companion = _sort(paths)
    if not main.exists():
        raise ModelError(f"{main}: no such file", fix="correct the path")
    folder = main.is_dir()
    main = _in_folder(main) if folder else main
    source = _read_source(main, companion)
    for key, value in properties_of(main).items():
        if not source.model.has_rt_info(["framework", key]):
            source.model.set_rt_info(value, ["framework", key])
    labels = labels_inside(main).over(labels_beside(main) if folder else Facts())
    return dataclasses.replace(source, path=main, facts=labels)


def holds_model(folder: Path) -> bool:
    """Whether a folder holds a model that is not a bundle's."""
    return not (folder / MANIFEST).is_file() and (
        (folder / SAVED_MODEL).is_file() or any(path.suffix.lower() in FORMATS for path in folder.iterdir())
    )


def _in_folder(folder: Path) -> Path:
    """Return the one model in a folder; the folder itself if it is a SavedModel.

    Raises
    ------
    ModelError
        There is none, or more than one.
    """
    _check_unbundled(folder)
    if (folder / SAVED_MODEL).is_file():
        return folder
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in FORMATS and path.is_file()]
    names = ", ".join(path.name for path in found)
    if len(found) != 1:
        raise ModelError(
            f"{folder}: a directory {f'with {names}' if names else f'without a model or {SAVED_MODEL}'}",
            wanted=f"a SavedModel directory, or one model: {', '.join(FORMATS)}",
            fix="name the model's file",
        )
    return found[0]


def _read_source(main: Path, companion: Path | None) -> Source:
    if main.is_dir():
        model = _read_saved_model(main)
        files = {p.relative_to(main).as_posix(): sha256_of(p) for p in sorted(main.rglob("*")) if p.is_file()}
        return Source(model, main.resolve().name, "TensorFlow SavedModel", files)
    if main.name == MODEL:
        _check_unbundled(main.parent)
    format_name, beside = FORMATS[main.suffix.lower()]
    if beside is not None:
        companion = companion or main.with_suffix(beside)
        if not companion.is_file():
            raise ModelError(
                f"{main}: its {companion.name} is not there",
                wanted=f"the {beside} file with the weights, beside it",
                fix=f"name it as well: convert {main} WEIGHTS{beside}",
            )
    files = {p.name: sha256_of(p) for p in (main, companion) if p is not None}
    if main.suffix.lower() == ".onnx":
        files |= {name: sha256_of(main.parent / name) for name in _external(main)}
    model, recognised = _read(main, companion)
    return Source(model, main.stem, format_name, files, recognised)


def _external(main: Path) -> Iterator[str]:
    """Names of the files that hold an ONNX model's tensors.

    Raises
    ------
    ModelError
        One is missing.
    """
    content = main.read_bytes()
    places = set()
    for found in EXTERNAL.finditer(content):
        low, high = found[1][0], found[1][-1] if len(found[1]) > 1 else 0
        places.add(content[found.end() : found.end() + (low & 0x7F | high << 7)])
    for name in sorted(place.decode(errors="replace") for place in places):
        if "\0" in name or not name.isprintable():
            continue  # other bytes that look alike
        if not (main.parent / name).is_file():
            raise ModelError(
                f"{main}: {name}, which holds its weights, is missing",
                wanted="the files with external data beside the model",
                fix=f"put {name} beside it, or export the model as one file",
            )
        yield name


def _sort(paths: Sequence[Path]) -> tuple[Path, Path | None]:
    """The model's main file, and the file with its weights where it was named."""
    mains = [p for p in paths if p.is_dir() or p.suffix.lower() in FORMATS]
    others = [p for p in paths if p not in mains]
    if len(mains) != 1 or len(others) > 1:
        raise UsageError(
            f"cannot tell which model is meant by {', '.join(map(str, paths))}",
            wanted=f"one model: {', '.join(FORMATS)}, or a SavedModel directory",
            fix="name one model, and at most the file with its weights",
        )
    main = mains[0].parent if mains[0].name == SAVED_MODEL else mains[0]
    if others:
        beside = None if main.is_dir() else FORMATS[main.suffix.lower()][1]
        if others[0].suffix.lower() != beside:
            raise UsageError(
                f"{others[0]} does not belong to {main}",
                wanted=f"a {beside} file" if beside else "no second file",
                fix="leave it out, or name the right one",
            )
    return main, others[0] if others else None


def _read(main: Path, companion: Path | None) -> tuple[ov.Model, Recognised | None]:
    if main.suffix.lower() == ".cfg":
        assert companion is not None
        return build(read_network(main, companion))
    with refusals_told(main):
        if main.suffix.lower() == ".tflite":
            return tflite.read(main)
        return (core().read_model(main, companion) if companion else core().read_model(main)), None


def _check_unbundled(directory: Path) -> None:
    """A bundle's graph takes frames as they are: what its source was trained with would come on top."""
    if (directory / MANIFEST).is_file():
        raise UsageError(f"{directory}: a bundle already", fix="quantize it, or convert its source again")


def _read_saved_model(path: Path) -> ov.Model:
    with refusals_told(path):
        return core().read_model(path)


@contextlib.contextmanager
def refusals_told(path: Path) -> Iterator[None]:
    """OpenVINO's refusals of a model, without its source locations.

    Raises
    ------
    ModelError
        It raised one in this block.
    """
    try:
        yield
    except REFUSALS as error:
        lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
        telling = [line for line in lines if not line.startswith(NOISE)]
        raise ModelError(
            f"{path}: OpenVINO cannot take it: {' '.join(telling or lines) or 'no reason given'}",
            wanted=f"a sound model: {', '.join(FORMATS)}, or a SavedModel directory",
            fix="export it again, or to ONNX",
        ) from error
