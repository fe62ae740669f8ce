"""Questions about an OpenVINO graph that several recognisers ask, and the cutting of graphs."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import openvino as ov
from openvino._offline_transformations import apply_moc_transformations

from qzd_ext.detections import FloatArray

__all__ = ["LAYOUT", "ancestors", "constant", "core", "cut", "describe", "producers", "simplify", "skip",
           "tried"]  # fmt: skip

LAYOUT = frozenset({"Concat", "Convert", "FakeQuantize", "Identity", "Reshape", "Slice", "Split", "Squeeze",
                    "StridedSlice", "Transpose", "Unsqueeze", "VariadicSplit"})  # fmt: skip
"""Operations that move numbers and do not change them."""


@functools.cache
def core() -> ov.Core:
    """Return the one OpenVINO core of a conversion."""
    return ov.Core()


def skip(output: ov.Output, types: frozenset[str] = LAYOUT) -> ov.Output:
    """Walk up from an output through operations of these types with one data input."""
    while output.get_node().get_type_name() in types - {"Concat"}:
        output = output.get_node().input_value(0)
    return output


def producers(output: ov.Output, types: frozenset[str] = LAYOUT) -> list[ov.Output]:
    """Where an output's numbers come from once operations of these types are looked through.

    In the order of the inputs; constants that only say how to move things are left out.
    """
    found: list[ov.Output] = []
    stack = [output]
    seen = set()
    while stack:
        here = stack.pop()
        node = here.get_node()
        if (node.get_friendly_name(), here.get_index()) in seen:
            continue
        seen.add((node.get_friendly_name(), here.get_index()))
        kind = node.get_type_name()
        if kind not in types:
            found.append(here)
        elif kind == "Concat":
            stack += reversed(node.input_values())
        else:
            stack.append(node.input_value(0))
    return found


def ancestors(output: ov.Output, stop: frozenset[str] = frozenset()) -> Iterator[ov.Node]:
    """Every node that an output depends on, nearest first, not going past types in `stop`."""
    queue = [output.get_node()]
    seen = set()
    while queue:
        node = queue.pop(0)
        if node.get_friendly_name() in seen:
            continue
        seen.add(node.get_friendly_name())
        yield node
        if node.get_type_name() not in stop:
            queue += [value.get_node() for value in node.input_values()]


def constant(output: ov.Output) -> ov.op.Constant | None:
    """Find the constant behind an output, looking through Convert; None if it is computed."""
    node = skip(output, frozenset({"Convert"})).get_node()
    return node if node.get_type_name() == "Constant" else None


def cut(model: ov.Model, outputs: Sequence[ov.Output]) -> ov.Model:
    """Cut out the part of a model that computes these outputs, in this order."""
    needed = {node.get_friendly_name() for output in outputs for node in ancestors(output)}
    parameters = [p for p in model.get_parameters() if p.get_friendly_name() in needed]
    results = [ov.opset13.result(output) for output in outputs]
    part = ov.Model(results, parameters, model.get_friendly_name())
    part.validate_nodes_and_infer_types()
    return part


def tried(model: ov.Model, output: ov.Output, value: int) -> FloatArray:
    """Compute what an output becomes for a picture that is `value` everywhere."""
    part = cut(model, [output])
    picture = np.full(tuple(part.inputs[0].shape), value).astype(part.inputs[0].element_type.to_dtype())
    return np.asarray(core().compile_model(part, "CPU")([picture])[0], np.float32)


def simplify(model: ov.Model) -> None:
    """Fold constants and fuse what frameworks spell out, in place, as OpenVINO's own converter does."""
    apply_moc_transformations(model, cf=True)


def describe(model: ov.Model) -> str:
    """Describe a model's inputs and outputs in one line, for messages."""

    def side(ports: Sequence[ov.Output]) -> str:
        return ", ".join(f"{p.any_name if p.names else '?'} {p.partial_shape}" for p in ports)

    return f"inputs {side(model.inputs)}; outputs {side(model.outputs)}"
