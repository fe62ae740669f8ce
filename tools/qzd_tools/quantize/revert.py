"""Layers of a quantized or smoothed graph as they were before."""

from __future__ import annotations

from collections.abc import Sequence

import openvino as ov
from openvino import opset13 as ops

from qzd_tools.graph.structure import constant_values, weight_port, weighted_layers

__all__ = ["bias_input", "revert_layers"]


def revert_layers(changed: ov.Model, original: ov.Model, names: Sequence[str]) -> ov.Model:
    """Copy a graph with the float activations, weights and biases of some layers put back.

    What comes before a layer is found by its name: between the two there may be a quantizer, the Multiply of
    SmoothQuant whose inverse is in the weights, or both. A bias was corrected for what rounding did to its
    layer, and would be wrong without that.

    Parameters
    ----------
    changed : ov.Model
        Made of `original`, whose operations keep their names in it.
    original : ov.Model
        Its names are unique.
    names : sequence of str
        Layers with their weights at the second input; others are left as they are.
    """
    model = changed.clone()
    operations = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    for layer in weighted_layers(original):
        name = layer.get_friendly_name()
        if name not in names:
            continue
        port, _ = weight_port(layer)
        values = constant_values(layer.input_value(port))
        before = layer.input_value(0)
        source = operations.get(before.get_node().get_friendly_name())
        if port == 1 and values is not None and source is not None:
            node = operations[name]
            node.input(0).replace_source_output(source.output(before.get_index()))
            node.input(1).replace_source_output(ops.constant(values).output(0))
            _restore_bias(node, layer)
    model.validate_nodes_and_infer_types()
    return model


def _restore_bias(node: ov.Node, original: ov.Node) -> None:
    ours, theirs = bias_input(node), bias_input(original)
    values = constant_values(theirs.get_source_output()) if theirs is not None else None
    if ours is not None and values is not None:
        ours.replace_source_output(ops.constant(values).output(0))


def bias_input(node: ov.Node) -> ov.Input | None:
    """Find where the constant enters that is added to a layer's result; None if there is none."""
    consumers = node.output(0).get_target_inputs()
    if len(consumers) != 1:
        return None
    entered = next(iter(consumers))
    added = entered.get_node()
    if added.get_type_name() != "Add":
        return None
    other = added.input(1 - entered.get_index())
    return other if constant_values(other.get_source_output()) is not None else None
