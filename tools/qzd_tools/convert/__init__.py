"""Any model into a bundle: read, recognise the head, cut, fold the preprocessing in, write.

`convert` is the whole way, top to bottom; each step is a module of its own. What it inferred, and from
what, it says and records in the bundle; what it cannot infer it asks for by flag.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import openvino as ov

from qzd_ext import bundle as bundles
from qzd_ext._version import __version__
from qzd_ext.bundle import Bundle
from qzd_ext.errors import UsageError
from qzd_ext.manifest import Labels, Manifest, Provenance, Thresholds
from qzd_tools.convert import labels as label_sets
from qzd_tools.convert.facts import Facts, Recognised, known, wanted
from qzd_tools.convert.golden import add_golden, list_pictures
from qzd_tools.convert.graph import cut, simplify
from qzd_tools.convert.heads import KINDS, Seen, recognise
from qzd_tools.convert.inputs import find_picture, make_static
from qzd_tools.convert.metadata import read_metadata, read_size
from qzd_tools.convert.preprocess import fold, input_of
from qzd_tools.convert.sources import Source, read_source
from qzd_tools.convert.tfod import input_size
from qzd_tools.structure import is_quantized

__all__ = ["KINDS", "ConvertOptions", "convert"]

Say = Callable[[str], None]

EIGHT_BITS = {ov.Type.i8, ov.Type.u8, ov.Type.i4, ov.Type.u4}
"""Of constants that are compressed weights; shapes and indices are wider."""

TOLD = ("color", "mean", "scale", "resize", "anchor", "pad", "short_side", "confidence", "iou", "nms")
"""Facts that are said with their reasons; the head and the labels are said apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """What a person states about a model; None leaves it to metadata and structure.

    Attributes
    ----------
    head : str, optional
        A kind of head.
    labels : str, optional
        A file, or the name of a set.
    resize, anchor, pad, short_side
        How frames are laid into the input; as in the manifest.
    color, mean, scale
        What the model was trained on: `(pixel - mean) / scale` of pixels in 0..255.
    shape : sequence of int, optional
        Height and width, or all four dimensions.
    first_label, background, normalized, anchors, masks, scale_xy
        Of the heads that leave it open.
    confidence, iou, nms
        Thresholds of the bundle, and the overlap that its NMS measures.
    fp16 : bool
        Store weights in half precision.
    name, version : str, optional
        Of the bundle.
    golden : sequence of Path
        Pictures for golden frames.
    overwrite : bool
        Replace a bundle that is at the destination.
    """

    head: str | None = None
    labels: str | None = None
    resize: Literal["stretch", "letterbox", "crop"] | None = None
    anchor: Literal["center", "corner"] | None = None
    pad: int | None = None
    short_side: int | None = None
    color: Literal["rgb", "bgr"] | None = None
    mean: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    shape: Sequence[int] | None = None
    first_label: int | None = None
    background: bool | None = None
    normalized: bool | None = None
    anchors: tuple[tuple[float, float], ...] | None = None
    masks: tuple[tuple[int, ...], ...] | None = None
    scale_xy: tuple[float, ...] | None = None
    confidence: float | None = None
    iou: float | None = None
    nms: Literal["iou", "diou"] | None = None
    fp16: bool = False
    name: str | None = None
    version: str = "1"
    golden: Sequence[Path] = ()
    overwrite: bool = False

    def facts(self) -> Facts:
        """The facts among these options."""
        stated = {
            field: getattr(self, field)
            for field in Facts.__dataclass_fields__
            if field not in {"labels", "why"}
        }
        return known("as asked for", **stated)


def convert(
    sources: Sequence[Path],
    destination: Path | None = None,
    options: ConvertOptions = ConvertOptions(),
    say: Say = lambda _: None,
) -> Bundle:
    """Make a bundle of a model.

    Parameters
    ----------
    sources : sequence of Path
        The model's file, and at most the file with its weights.
    destination : Path, optional
        The bundle's directory; NAME-PRECISION in the current directory where it is not given.
    options : ConvertOptions
        What is stated about the model.
    say : callable
        Called with each thing that was inferred, and from what.

    Returns
    -------
    Bundle
        Read back, with its hashes checked.

    Raises
    ------
    UsageError
        Something could not be inferred; the message names the flag that states it.
    ModelError
        The model cannot be read, or its head is not known.
    """
    pictures = list_pictures(options.golden)
    given = label_sets.load(options.labels) if options.labels is not None else None
    source = read_source(sources)
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        say(text)

    note(f"source: {source.format}")
    make_static(source.model, options.shape, read_size(source.model) or input_size(source.model))
    picture = find_picture(source.model)
    facts = known(f"--labels {options.labels}", labels=given).over(options.facts())
    facts = facts.over(read_metadata(source.model, source.name)).over(picture.facts)
    simplify(source.model)
    found = source.recognised or recognise(Seen(source.model, picture.width, picture.height, facts))
    facts = facts.over(found.family).over(_usual_labels(found.classes))
    wanted(facts, "color", "mean", "scale", "resize", "labels")
    names = _checked_labels(facts, found)
    _tell(note, picture.width, picture.height, facts, found)
    raw = cut(source.model, found.outputs) if found.outputs else source.model
    model = fold(raw, picture, facts)
    precision = _precision(model, options.fp16)
    manifest = Manifest(
        name=options.name or _plain_name(source.name),
        version=options.version,
        task=found.head.task,  # type: ignore[arg-type]
        precision=precision,
        input=input_of(picture, facts),
        head=found.head,
        labels=names,
        thresholds=_thresholds(facts),
        provenance=_provenance(source),
    )
    target = destination or Path(f"{manifest.name}-{precision}")
    with bundles.create(target, overwrite=options.overwrite) as draft:
        ov.save_model(model, draft.directory / bundles.MODEL, compress_to_fp16=options.fp16)
        if found.priors is not None:
            np.save(draft.directory / bundles.PRIORS, found.priors)
        if pictures:
            results = add_golden(draft, manifest, found.priors, pictures)
            note(f"golden frames: {len(results)}, with {sum(map(len, results))} findings")
        else:
            note("golden frames: none, as no pictures were given with --golden")
        provenance = msgspec.structs.replace(manifest.provenance, notes=tuple(notes))
        draft.manifest = msgspec.structs.replace(manifest, provenance=provenance)
    return bundles.read(target)


def _usual_labels(classes: int) -> Facts:
    usual = label_sets.usual(classes)
    if usual is None:
        return Facts()
    return known(f"{usual[0]}, since {classes} classes are that set's", labels=usual[1])


def _checked_labels(facts: Facts, found: Recognised) -> Labels:
    assert facts.labels is not None
    count = len(facts.labels.names)
    if found.classes not in {0, count}:
        raise UsageError(
            f"{count} labels ({facts.why['labels']}), but the model has {found.classes} classes",
            wanted=f"{found.classes} names",
            fix="give the right ones with --labels",
        )
    return facts.labels


def _tell(note: Say, width: int, height: int, facts: Facts, found: Recognised) -> None:
    """Say every inference with its reason, one line a reason."""
    kind = msgspec.to_builtins(found.head)["kind"]
    note(f"head: {kind}: {found.reason}")
    said: dict[str, list[str]] = {"the graph's input": [f"{width}x{height}"]}
    for name in TOLD:
        value = getattr(facts, name)
        if value is not None and (name not in {"anchor", "pad"} or facts.resize == "letterbox"):
            text = ",".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)
            said.setdefault(facts.why[name], []).append(f"{name} {text}")
    for reason, things in said.items():
        note(f"{', '.join(things)}: {reason}")
    assert facts.labels is not None
    shown = ", ".join(facts.labels.names[:3]) + (", ..." if len(facts.labels.names) > 3 else "")
    note(f"labels {len(facts.labels.names)} ({shown}): {facts.why['labels']}")


def _precision(model: ov.Model, fp16: bool) -> Literal["fp32", "fp16", "int8", "int8-weights"]:
    if is_quantized(model):
        return "int8"
    kinds = {n.get_output_element_type(0) for n in model.get_ops() if n.get_type_name() == "Constant"}
    if kinds & EIGHT_BITS:
        return "int8-weights"
    return "fp16" if fp16 else "fp32"


def _plain_name(name: str) -> str:
    """A name that a bundle may have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip("._-") or "model"


def _thresholds(facts: Facts) -> Thresholds:
    stated = {n: getattr(facts, n) for n in ("confidence", "iou", "nms") if getattr(facts, n) is not None}
    return msgspec.structs.replace(Thresholds(), **stated)


def _provenance(source: Source) -> Provenance:
    return Provenance(source=source.files, tools={"qzd": __version__, "openvino": ov.__version__})
