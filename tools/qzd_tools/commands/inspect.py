"""`qzd-tools inspect`: what a bundle or a model is, in words and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qzd_ext.errors import BundleError, ResourceError
from qzd_tools.commands import json_option, say, write_json

if TYPE_CHECKING:
    from qzd_ext.manifest import Manifest
    from qzd_tools.inspection import Inspection

__all__ = ["command"]


@click.command()
@click.argument("model", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--head", help="What the model ends in, where convert does not recognise it.")
@click.option("--layers", is_flag=True, help="List every layer with its precision.")
@json_option
def command(model: tuple[Path, ...], head: str | None, layers: bool, json_file: Path | None) -> None:
    """Say what MODEL is: a bundle, an IR, an ONNX file, or any other source that convert reads.

    Of a bundle, whether every file is as it was written is checked: exit code 3 where one is not.
    """
    from qzd_ext.bundle import MANIFEST
    from qzd_tools.convert.formats.read import holds_model
    from qzd_tools.convert.run import ConvertOptions
    from qzd_tools.inspection import inspect_bundle, inspect_source

    first = model[0]
    if not first.exists():
        raise ResourceError(f"{first}: no such file or directory", fix="correct the path")
    is_source = first.is_file() or len(model) > 1 or holds_model(first)
    if first.name == MANIFEST and first.is_file():
        first, is_source = first.parent, False
    found = inspect_source(model, ConvertOptions(head=head)) if is_source else inspect_bundle(first)
    say(_describe(found, layers))
    write_json(json_file, found)
    if found.verified is False:
        raise BundleError(f"{found.path} is not as it was written", fix="copy or make the bundle again")


def _describe(found: Inspection, layers: bool = False) -> str:
    """Write an inspection as text."""
    lines = [f"{found.path}: {found.format}, {found.bytes / 1e6:.2f} MB"]
    if found.digest:
        lines.append(f"  digest      {found.digest}")
    if found.verified is not None:
        lines.append("  verified    " + ("yes, every file has its hash" if found.verified else "NO"))
    if found.signed_with:
        lines.append(f"  signed with {found.signed_with}")
    for title, tensors in (("input", found.inputs), ("output", found.outputs)):
        lines += [f"  {title:<11} {tensor.name}: {tensor.type} {tensor.shape}" for tensor in tensors]
    if found.manifest is not None:
        lines += _manifest_lines(found.manifest)
    lines += _precision_lines(found)
    lines += [f"  because     {note}" for note in found.why]
    if found.problem:
        title = "  problem     " if found.verified is not None else "  convert     "
        lines += [title + found.problem.replace("\n", "\n            ")]
    if layers:
        lines += [f"  {x.weights:>4} {x.activations:>5}  {x.type} {x.name}" for x in found.layers]
    return "\n".join(lines)


def _manifest_lines(manifest: Manifest) -> list[str]:
    import msgspec

    head = msgspec.to_builtins(manifest.head)
    facts = ", ".join(f"{k} {_short(v)}" for k, v in head.items() if k != "kind")
    fit, names, made = manifest.input, manifest.labels.names, manifest.provenance
    known = [name for name in names if name]
    lines = [
        f"  name        {manifest.name} {manifest.version}, {manifest.task}, {manifest.precision}",
        f"  served in   {manifest.inference_precision}",
        f"  frames      {fit.width}x{fit.height} BGR, {fit.resize}",
        f"  head        {head['kind']}" + (f": {facts}" if facts else ""),
        f"  labels      {len(names)}: {', '.join(known[:4])}{', ...' if len(known) > 4 else ''}",
    ]
    if made.source:
        lines.append(f"  made of     {', '.join(made.source)}")
    if made.proof:
        lines.append(f"  proven      {_proof_line(made.proof)}")
    if made.tools:
        lines.append("  made with   " + ", ".join(f"{k} {v}" for k, v in made.tools.items()))
    if made.parent:
        images = f", calibrated with {made.calibration_images} images" if made.calibration_images else ""
        isa = f", for {made.target_isa}" if made.target_isa else ""
        lines.append(f"  parent      {made.parent}{images}{isa}")
    for one in manifest.accuracy:
        shown = ", ".join(f"{k} {v:.4f}" for k, v in list(one.metrics.items())[:2])
        where = " in ".join(filter(None, (one.device, one.inference_precision)))
        lines.append(f"  accuracy    {shown} on {one.images} images ({where})")
    return lines


def _proof_line(proof: Mapping[str, object]) -> str:
    if "unproven" in proof:
        return f"NO: {proof['unproven']}"
    return f"by {proof['runtime']} on {proof['pictures']} pictures, difference {proof['difference']}"


def _short(value: object, limit: int = 60) -> str:
    text = str(value)
    return text if len(text) <= limit else text[:limit] + "..."


def _precision_lines(found: Inspection) -> list[str]:
    counts = Counter((layer.weights, layer.activations) for layer in found.layers)
    parts = [f"{n} with {weights} weights and {kind} input" for (weights, kind), n in counts.most_common()]
    total = sum(found.operations.values())
    return [f"  layers      {len(found.layers)} of {total} operations: {'; '.join(parts) or 'none'}"]
