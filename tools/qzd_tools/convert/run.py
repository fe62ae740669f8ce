"""Any model into a bundle: read, recognise the head, cut, fold the preprocessing in, write.

`convert` is the whole way, top to bottom; each step is a module of its own. What it inferred, and from
what, it says and records in the bundle; what it cannot infer it asks for by flag.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import openvino as ov

from qzd_client._version import __version__
from qzd_ext import bundle as bundles
from qzd_ext.bundle import Bundle
from qzd_ext.decode import Decoder
from qzd_ext.errors import ModelError, UsageError
from qzd_ext.manifest import Manifest, Provenance, Thresholds
from qzd_tools.convert import labels as label_sets
from qzd_tools.convert.facts import Facts, Recognised, known, wanted
from qzd_tools.convert.formats.read import IR, Source, read_source, refusals_told
from qzd_tools.convert.golden import add_golden, list_pictures
from qzd_tools.convert.heads.boxes_only import boxes_of
from qzd_tools.convert.heads.recognise import KINDS, recognise
from qzd_tools.convert.heads.ssd_tensorflow import input_size
from qzd_tools.convert.heads.subject import Subject
from qzd_tools.convert.inputs import Picture, find_picture, make_static
from qzd_tools.convert.metadata import read_metadata, read_size
from qzd_tools.convert.options import ConvertOptions
from qzd_tools.convert.preprocess import fold, input_of, usual_crop
from qzd_tools.convert.proof import Proof, prove, whole_graph
from qzd_tools.graph.save import save_ir
from qzd_tools.graph.structure import is_quantized
from qzd_tools.graph.walk import cut, simplify

__all__ = ["KINDS", "ConvertOptions", "convert"]

Say = Callable[[str], None]
Precision = Literal["fp32", "fp16", "int8", "int8-weights"]

EIGHT_BITS = {ov.Type.i8, ov.Type.u8, ov.Type.i4, ov.Type.u4}
"""Of constants that are compressed weights; shapes and indices are wider."""

OF_HEADS = {
    "first_label": "--first-label", "background": "--background", "normalized": "--normalized or --pixels",
    "anchors": "--anchors", "masks": "--masks", "scale_xy": "--scale-xy", "decode": "--decode",
    "columns": "--columns",
}  # fmt: skip
"""Facts that are keys of some heads, with their flags."""

OF_RESIZES = {"anchor": "letterbox", "pad": "letterbox", "short_side": "crop"}
"""Facts that concern one way to fit frames in."""

TOLD = ("color", "mean", "scale", "resize", "anchor", "pad", "short_side", "confidence", "iou", "nms")
"""Facts that are said with their reasons; the head and the labels are said apart."""


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
        The model cannot be read, its head is not known, or its results are not what the head needs.
    """
    pictures = list_pictures(options.golden)
    stated = options.facts()
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        say(text)

    source = read_source(sources)
    note(f"source: {source.format}")
    with refusals_told(sources[0]):
        source, picture, facts, found = _understand(source, stated, options)
        _tell(note, picture, facts, found)
        whole, names = whole_graph(source.model, found.outputs)
        whole = None if whole is None else fold(whole, picture, facts)
        model = fold(cut(source.model, found.outputs) if found.outputs else source.model, picture, facts)
    manifest = _manifest(source, options, picture, facts, found, _precision(model, options.fp16))
    decoder = Decoder(manifest, [tuple(output.shape) for output in model.outputs], found.priors)
    target = destination or Path(f"{manifest.name}-{manifest.precision}")
    with bundles.create(target, overwrite=options.overwrite) as draft:
        save_ir(model, draft.directory / bundles.MODEL, fp16=options.fp16)
        if found.priors is not None:
            np.save(draft.directory / bundles.PRIORS, found.priors)
        written = draft.directory / bundles.MODEL
        proof = _proof(options, source, whole, names, written, picture, facts, manifest.precision)
        note(_told(proof))
        results = add_golden(draft, manifest, decoder, pictures)
        note(f"golden frames: {len(results)}, with {sum(map(len, results))} findings" if results
             else "golden frames: none, as no pictures were given with --golden")  # fmt: skip
        provenance = msgspec.structs.replace(manifest.provenance, notes=tuple(notes), proof=proof)
        draft.manifest = msgspec.structs.replace(manifest, provenance=provenance)
    return bundles.read(target)


def _proof(
    options: ConvertOptions, source: Source, whole: ov.Model | None, names: Sequence[str],
    bundle: Path, picture: Picture, facts: Facts, precision: Precision,
) -> Proof:  # fmt: skip
    """Prove that the bundle's graph is its source, unless it may be unproven.

    Raises
    ------
    ModelError
        It is not.
    """
    if source.recognised is not None:  # Darknet, and TFLite with its post-processing
        return {"unproven": f"this {source.format} model runs in no other runtime here"}
    rough = precision != "fp32" or is_quantized(source.model)
    try:
        return prove(source.path, whole, names, bundle, picture, facts, rough=rough)
    except ModelError as error:
        if not options.unproven:
            raise
        return {"unproven": error.found}


def _told(proof: Proof) -> str:
    if "unproven" in proof:
        return f"not proven: {proof['unproven']}"
    return (
        f"proven: {proof['runtime']} gives the same on {proof['pictures']} pictures, within "
        f"{proof['difference']:.1g} of each channel's largest value"
    )


def _understand(
    source: Source, stated: Facts, options: ConvertOptions
) -> tuple[Source, Picture, Facts, Recognised]:
    """Return the source, only with its boxes if asked for; its input, its head, and every fact about it.

    A fact is stated, in metadata, or known of the kind.

    Raises
    ------
    UsageError
        A fact is missing, or contradicts the head.
    """
    make_static(source.model, options.shape, read_size(source.model) or input_size(source.model))
    picture = find_picture(source.model)
    metadata = read_metadata(
        source.model, source.name, max(picture.width, picture.height), options.boxes_only
    )
    if options.boxes_only:
        source = dataclasses.replace(source, model=boxes_of(source.model, stated.over(metadata).labels))
    facts = stated.over(_of_bytes(picture, stated, metadata)).over(metadata).over(source.facts)
    facts = facts.over(picture.facts)
    simplify(source.model)
    found = source.recognised
    if found is None:
        found = recognise(Subject(source.model, picture.width, picture.height, facts, stated.head))
    elif stated.head not in {None, _kind(found)}:
        raise UsageError(f"--head {stated.head}, but the file itself says {_kind(found)}: {found.reason}")
    certain = stated.over(found.certain).over(facts)
    facts = certain.over(_family(found, source, picture)).over(_usual_labels(found))
    wanted(facts, "color", "mean", "scale", "resize", "labels")
    if facts.resize == "crop":
        facts = facts.over(usual_crop(picture))
    _check_labels(facts, found)
    _check_stated(stated, facts, found)
    return source, picture, facts, found


def _of_bytes(picture: Picture, stated: Facts, metadata: Facts) -> Facts:
    """That a model which takes bytes is given them as they are, whatever its metadata says; else nothing.

    Raises
    ------
    UsageError
        Another mean or scale is stated: what it makes of pixels would be rounded to bytes again.
    """
    if not picture.takes_bytes:
        return Facts()
    own = "the model takes bytes and normalises them itself"
    asked, meant = _normalising(stated), _normalising(metadata)
    if asked:
        raise UsageError(f"--{' and --'.join(asked)}, but {own}", fix="leave it out")
    ignored = f"; {' and '.join(meant)} of its metadata would come on top, and is left out" if meant else ""
    return known(own + ignored, mean=(0.0,), scale=(1.0,))


def _normalising(facts: Facts) -> list[str]:
    """Mean and scale as text, where they change anything."""
    given = (("mean", facts.mean or (0.0,), 0.0), ("scale", facts.scale or (1.0,), 1.0))
    return [f"{name} {','.join(f'{v:g}' for v in values)}" for name, values, no in given if {*values} != {no}]


def _manifest(
    source: Source,
    options: ConvertOptions,
    picture: Picture,
    facts: Facts,
    found: Recognised,
    precision: Precision,
) -> Manifest:
    assert facts.labels is not None
    try:
        return Manifest(
            name=_plain_name(options.name or source.name),
            version=options.version,
            task=found.head.task,
            precision=precision,
            input=input_of(picture, facts),
            head=found.head,
            labels=facts.labels,
            thresholds=_thresholds(facts),
            provenance=Provenance(
                source=source.files, tools={"qzd": __version__, "openvino": ov.__version__}
            ),
        )
    except ValueError as error:
        raise UsageError(f"the bundle would contradict itself: {error}", fix="correct the flag") from error


def _family(found: Recognised, source: Source, picture: Picture) -> Facts:
    """What is known of the head's kind; of an IR that takes bytes, but for its channels.

    Folding the preprocessing may have turned them round: OpenVINO hides that in the weights.
    """
    family = found.family
    if not (picture.takes_bytes and source.format == IR):
        return family
    why = {name: reason for name, reason in family.why.items() if name != "color"}
    return dataclasses.replace(family, color=None, why=why)


def _usual_labels(found: Recognised) -> Facts:
    usual = label_sets.usual(found.classes)
    if usual is None or (usual[0] == "imagenet") != (found.head.task == "classification"):
        return Facts()
    return known(f"{usual[0]}, since {found.classes} classes are that set's", labels=usual[1])


def _check_labels(facts: Facts, found: Recognised) -> None:
    assert facts.labels is not None
    count = len(facts.labels.names)
    if found.classes not in {0, count}:
        raise UsageError(
            f"{count} labels ({facts.why['labels']}), but the model has {found.classes} classes",
            wanted=f"{found.classes} names",
            fix="give the right ones with --labels",
        )


def _check_stated(stated: Facts, facts: Facts, found: Recognised) -> None:
    """Refuse what a person stated and nothing would follow, or that is in another unit."""
    if stated.scale is not None and min(stated.scale) < 1:
        raise UsageError(
            f"--scale {','.join(f'{v:g}' for v in stated.scale)} makes more than 255 of a white pixel",
            wanted="mean and scale of pixels in 0..255",
            fix="multiply both by 255 if they are for pixels in 0..1, or state the divisor of a factor",
        )
    for name in stated.why:
        value, flag = getattr(stated, name), OF_HEADS.get(name, f"--{name.replace('_', '-')}")
        needed = OF_RESIZES.get(name, facts.resize)
        if needed != facts.resize:
            why = f"{flag} is for --resize {needed}, and frames are fitted by {facts.resize}"
        elif name in OF_HEADS and not hasattr(found.head, name):
            why = f"{flag} says nothing about the head {_kind(found)}"
        elif name in OF_HEADS and getattr(found.head, name) != value:
            why = f"{flag} {value}, but the file itself says {getattr(found.head, name)}"
        else:
            continue
        raise UsageError(why, fix="leave it out")


def _kind(found: Recognised) -> str:
    """The head's name, as the manifest and `--head` have it."""
    return str(msgspec.to_builtins(found.head)["kind"])


def _tell(note: Say, picture: Picture, facts: Facts, found: Recognised) -> None:
    """Say every inference with its reason, one line a reason."""
    note(f"head: {_kind(found)}: {found.reason}")
    said: dict[str, list[str]] = {"the graph's input": [f"{picture.width}x{picture.height}"]}
    for name in TOLD:
        value = getattr(facts, name)
        if value is not None and OF_RESIZES.get(name, facts.resize) == facts.resize:
            text = ",".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)
            said.setdefault(facts.why[name], []).append(f"{name} {text}")
    for reason, things in said.items():
        note(f"{', '.join(things)}: {reason}")
    assert facts.labels is not None
    shown = ", ".join(facts.labels.names[:3]) + (", ..." if len(facts.labels.names) > 3 else "")
    note(f"labels {len(facts.labels.names)} ({shown}): {facts.why['labels']}")


def _precision(model: ov.Model, fp16: bool) -> Precision:
    if is_quantized(model):
        return "int8"
    kinds = {n.get_output_element_type(0) for n in model.get_ops() if n.get_type_name() == "Constant"}
    if kinds & EIGHT_BITS:
        return "int8-weights"
    return "fp16" if fp16 else "fp32"


def _plain_name(name: str) -> str:
    """A name that a bundle may have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip("._-")[:128] or "model"


def _thresholds(facts: Facts) -> Thresholds:
    stated = {n: getattr(facts, n) for n in ("confidence", "iou", "nms") if getattr(facts, n) is not None}
    return msgspec.structs.replace(Thresholds(), **stated)
