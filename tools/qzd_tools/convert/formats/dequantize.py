"""A graph quantized by TensorFlow Lite, back in float.

What TFLite computes in 8 bits is right for its own kernels; on CPUs whose instructions saturate it is not,
so such a model is made float here and quantized again for the machine that it will run on. Weights become
the numbers they stand for; a range that starts at 0 is an activation's and becomes a clamp (that is where
ReLU6 went); other ranges only record what was seen and are dropped.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

from qzd_ext.detections import FloatArray
from qzd_tools.graph.walk import core, skip

__all__ = ["QUANTIZING", "constant_values", "to_float"]

QUANTIZING = frozenset({"Convert", "FakeQuantize"})
RELU6 = 0.02
"""How near to 6 the end of a quantized ReLU6's range is; 8 bits do not meet it exactly."""


def to_float(model: ov.Model) -> bool:
    """Put a graph back into float, in place.

    Returns
    -------
    bool
        Whether there was anything quantized.
    """
    quantized = any(n.get_type_name() == "FakeQuantize" for n in model.get_ops())
    _fold_weights(model)
    for result in model.get_results():
        if result.get_element_type().is_integral():
            result.input(0).replace_source_output(skip(result.input_value(0), QUANTIZING))
    for parameter in model.get_parameters():
        if parameter.get_element_type() == ov.Type.i8:
            parameter.set_element_type(ov.Type.f32)
            _drop_ranges(parameter.output(0))
    for node in model.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize":
            _replace(node.output(0), _without_rounding(node))
    model.validate_nodes_and_infer_types()
    return quantized


def constant_values(outputs: list[ov.Output]) -> list[FloatArray]:
    """The numbers of outputs that depend on constants alone, as float32."""
    if not outputs:
        return []
    compiled = core().compile_model(ov.Model([ops.result(o) for o in outputs], [], "constants"), "CPU")
    found = compiled([])
    return [np.array(found[i], np.float32) for i in range(len(outputs))]


def _fold_weights(model: ov.Model) -> None:
    """Replace arithmetic on constants by its result; OpenVINO itself keeps what dequantizes."""
    fixed: set[str] = set()
    outputs = []
    for node in model.get_ordered_ops():
        inputs = [value.get_node().get_friendly_name() for value in node.input_values()]
        if node.get_type_name() == "Constant" or (inputs and fixed.issuperset(inputs)):
            fixed.add(node.get_friendly_name())
    for node in model.get_ordered_ops():
        if node.get_friendly_name() not in fixed or node.get_type_name() == "Constant":
            continue
        if node.get_output_element_type(0).is_real():
            users = [t.get_node().get_friendly_name() for t in node.output(0).get_target_inputs()]
            if not fixed.issuperset(users):
                outputs.append(node.output(0))
    for output, value in zip(outputs, constant_values(outputs), strict=True):
        _replace(output, ops.constant(value).output(0))


def _replace(old: ov.Output, new: ov.Output) -> None:
    for target in old.get_target_inputs():
        if target.get_node().get_friendly_name() != new.get_node().get_friendly_name():
            target.replace_source_output(new)


def _drop_ranges(port: ov.Output) -> None:
    """Take out the FakeQuantize that maps a quantized input to what the model was trained on."""
    for target in port.get_target_inputs():
        node = target.get_node()
        if node.get_type_name() == "FakeQuantize":
            _replace(node.output(0), port)
        elif node.get_type_name() in {"Convert", "Transpose"}:
            _drop_ranges(node.output(0))


def _bound(node: ov.Node, port: int) -> FloatArray:
    """A bound of a FakeQuantize, which the frontend gives as a plain constant."""
    return np.asarray(node.input_value(port).get_node().data, np.float32)


def _without_rounding(node: ov.Node) -> ov.Output:
    """What a FakeQuantize does to numbers, but for the rounding."""
    value = node.input_value(0)
    low, high, out_low, out_high = (_bound(node, i) for i in range(1, 5))
    if np.array_equal(low, out_low) and np.array_equal(high, out_high):
        if low.size > 1 or low.item() != 0.0:
            return value
        end = 6.0 if abs(high.item() - 6.0) < RELU6 else high.item()
        return ops.clamp(value, 0.0, end).output(0)
    slope: npt.NDArray[np.float32] = (out_high - out_low) / (high - low)
    return ops.add(ops.multiply(value, slope), np.asarray(out_low - low * slope, np.float32)).output(0)
