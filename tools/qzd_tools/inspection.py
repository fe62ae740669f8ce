"""What a model is: its tensors, its head and why, the precision of each layer, where it comes from."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import openvino as ov
from msgspec import Struct

from qzd_ext import bundle as bundles
from qzd_ext import signature
from qzd_ext.errors import BundleError, QzdError
from qzd_ext.files import read_file
from qzd_ext.manifest import Manifest, decode_manifest
from qzd_tools.convert.formats.read import read_source
from qzd_tools.convert.run import ConvertOptions, convert
from qzd_tools.graph.structure import weight_port, weighted_layers

__all__ = ["Inspection", "Layer", "Tensor", "inspect_bundle", "inspect_source"]


class Tensor(Struct, frozen=True):
    """An input or a result of a graph; `?` stands for a dimension that is not fixed."""

    name: str
    type: str
    shape: str


class Layer(Struct, frozen=True):
    """A convolution or matrix product."""

    name: str
    type: str
    weights: str
    """Element type that its weights are stored in: f32, f16, i8, u8, i4."""
    activations: str
    """`int8` where its input is quantized, `float` elsewhere."""


class Inspection(Struct, frozen=True, kw_only=True):
    """What was found."""

    path: str
    format: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    operations: dict[str, int]
    """How many of each type, most first."""
    bytes: int
    manifest: Manifest | None = None
    """A bundle's own, or the one that convert would write."""
    digest: str = ""
    why: tuple[str, ...] = ()
    """What convert inferred, and from what."""
    verified: bool | None = None
    """Whether every file of a bundle has the hash that its manifest says; None for other sources."""
    problem: str = ""
    """Why the hashes are wrong, or why convert could not make a bundle."""
    signed_with: str = ""
    """The number of the key that a bundle's signature names, which is not checked here."""


def inspect_bundle(path: Path) -> Inspection:
    """Look at a bundle, also at one whose hashes are wrong.

    Raises
    ------
    BundleError
        There is no bundle, or its manifest or graph cannot be read.
    """
    path = bundles.locate(path)
    text = (path / bundles.MANIFEST).read_bytes()
    manifest = decode_manifest(text, str(path / bundles.MANIFEST))
    digest, problem = "", ""
    try:
        digest = bundles.read(path).digest
    except BundleError as error:
        problem = str(error)
    try:
        graph = ov.Core().read_model(path / bundles.MODEL)
    except RuntimeError as error:
        raise BundleError(problem or f"{path / bundles.MODEL}: cannot be read: {error}") from error
    size = sum((path / name).stat().st_size for name in (bundles.MODEL, bundles.WEIGHTS))
    return msgspec.structs.replace(
        _inspection(path, "bundle", graph, size), manifest=manifest, digest=digest,
        why=manifest.provenance.notes, verified=not problem, problem=problem, signed_with=_signed_with(path),
    )  # fmt: skip


def _signed_with(path: Path) -> str:
    try:
        return signature.key_number(read_file(path / signature.SIGNATURE, signature.MAX_BYTES))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        return f"nothing readable: {error}"


def inspect_source(paths: Sequence[Path], options: ConvertOptions) -> Inspection:
    """Look at a model of any format that `convert` reads.

    Parameters
    ----------
    paths : sequence of Path
        As `convert` takes them.
    options : ConvertOptions
        As `convert` takes them.

    Raises
    ------
    QzdError
        The model cannot be read. That convert cannot make a bundle of it is no error: it is the `problem`.
    """
    source = read_source(paths)
    folders = {path if path.is_dir() else path.parent for path in paths}
    found = [folder / name for name in source.files for folder in folders]
    size = sum(path.stat().st_size for path in found if path.is_file())
    manifest, problem, why = None, "", list[str]()
    facts = _inspection(paths[0], source.format, source.model, size)
    with tempfile.TemporaryDirectory(prefix="qzd-inspect-") as directory:
        try:
            manifest = convert(paths, Path(directory) / "bundle", options, why.append).manifest
        except QzdError as error:
            problem = str(error)
    why = [note for note in why if not note.startswith("golden frames")]
    return msgspec.structs.replace(facts, manifest=manifest, why=tuple(why), problem=problem)


def _inspection(path: Path, kind: str, graph: ov.Model, size: int) -> Inspection:
    kinds = (node.get_type_name() for node in graph.get_ordered_ops())
    operations = Counter(kind for kind in kinds if kind not in {"Constant", "Parameter", "Result"})
    return Inspection(
        path=str(path),
        format=kind,
        inputs=tuple(_tensor(port) for port in graph.inputs),
        outputs=tuple(_tensor(port) for port in graph.outputs),
        layers=tuple(_layer(node) for node in weighted_layers(graph)),
        operations=dict(operations.most_common()),
        bytes=size,
    )


def _tensor(port: ov.Output) -> Tensor:
    names = port.get_names()
    name = min(names) if names else port.get_node().get_friendly_name()
    return Tensor(name, port.element_type.get_type_name(), str(port.partial_shape))


def _layer(node: ov.Node) -> Layer:
    port, _ = weight_port(node)
    source = node.input_value(1 - port).get_node()
    while source.get_type_name() in {"Reshape", "Transpose"}:
        source = source.input_value(0).get_node()
    activations = "int8" if source.get_type_name() == "FakeQuantize" else "float"
    return Layer(node.get_friendly_name(), node.get_type_name(), _stored(node, port), activations)


def _stored(node: ov.Node, port: int) -> str:
    """Element type of the constant that a weight comes from, through what restores it.

    A FakeQuantize on the way means that the weight is rounded to eight bits when the model is loaded.
    """
    source = node.input_value(port).get_node()
    while source.get_type_name() != "Constant":
        if source.get_type_name() == "FakeQuantize":
            return "i8"
        source = source.input_value(0).get_node()
    return str(source.get_element_type().get_type_name())
