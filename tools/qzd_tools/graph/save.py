"""Graphs onto disk, so that the same graph is the same file."""

from __future__ import annotations

import re
from pathlib import Path

import openvino as ov

__all__ = ["save_ir"]


def save_ir(model: ov.Model, path: Path, *, fp16: bool = False) -> None:
    """Write model.xml and the .bin beside it.

    OpenVINO numbers the operations that nobody named by a counter of the process. They are numbered by their
    place in the graph instead: a bundle's digest must not depend on what was done before in the same process.

    Parameters
    ----------
    model : ov.Model
        Not changed: its operations can be found by their names afterwards.
    path : Path
        Of the .xml.
    fp16 : bool
        Store weights in half precision.

    Raises
    ------
    OSError
        It could not be written whole, as on a full disk; OpenVINO does not always notice, so it is read back.
    """
    model = model.clone()
    nodes = model.get_ordered_ops()
    unnamed = [node for node in nodes if _is_unnamed(node)]
    taken = {node.get_friendly_name() for node in nodes} - {node.get_friendly_name() for node in unnamed}
    for index, node in enumerate(unnamed):
        name = f"{node.get_type_name()}.{index}"
        node.set_friendly_name(name if name not in taken else f"{name}.unnamed")
    for index, output in enumerate(model.outputs):
        names = output.get_tensor().get_names()
        if names and all(re.fullmatch(r"Result_\d+", name) for name in names):
            output.get_tensor().set_names({f"Result.{index}"})
    try:
        ov.save_model(model, path, compress_to_fp16=fp16)
        ov.Core().read_model(path)
    except RuntimeError as error:
        raise OSError(None, f"the model could not be written whole: {error}", str(path)) from error


def _is_unnamed(node: ov.Node) -> bool:
    """Tell whether a node has the name that OpenVINO makes up; a folded constant has its operation's."""
    kind = r"\w+" if node.get_type_name() == "Constant" else re.escape(node.get_type_name())
    return re.fullmatch(rf"{kind}_\d+", node.get_friendly_name()) is not None
