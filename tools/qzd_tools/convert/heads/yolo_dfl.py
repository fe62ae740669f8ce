"""The head of YOLOv8 and its kin before its DFL: a distribution for each box side, and class logits.

In the graph, the softmax over distributions and what follows run for every cell; decoded outside, for the
few that pass the threshold. Measured on YOLOv8n at 640x640, one thread: 3 % of the time in float, and
nothing is left behind the last convolutions that quantization could spoil.
"""

from __future__ import annotations

import openvino as ov

from qzd_tools.convert.heads.ssd import is_raw
from qzd_tools.graph.walk import LAYOUT, ancestors, producers

__all__ = ["raw_distributions"]


def raw_distributions(output: ov.Output, cells: int, classes: int) -> tuple[ov.Output, int] | None:
    """Where YOLOv8's output is still one tensor of raw predictions.

    Parameters
    ----------
    output : ov.Output
        `[1, 4 + classes, cells]` or its transpose.
    cells, classes : int

    Returns
    -------
    ov.Output, int
        The tensor `[1, 4 * bins + classes, cells]`, and bins; None where the graph is not of that kind.
    """
    for node in ancestors(output):
        if node.get_type_name() != "Softmax":
            continue
        shape = node.output(0).shape
        bins = shape[node.get_attributes()["axis"]]
        wanted = [1, 4 * bins + classes, cells]
        joined = _joined(node.input_value(0), wanted)
        scores = [p for p in producers(output) if p.get_node().get_type_name() == "Sigmoid"]
        if joined is None or not scores or not is_raw(joined):
            return None
        logits = _joined(scores[0].get_node().input_value(0), wanted)
        same = logits is not None and logits.get_node() == joined.get_node()
        return (joined, bins) if same else None
    return None


def _joined(output: ov.Output, shape: list[int]) -> ov.Output | None:
    """Walk up through moves to the tensor of this shape."""
    while list(output.shape) != shape:
        node = output.get_node()
        if node.get_type_name() not in LAYOUT - {"Concat"}:
            return None
        output = node.input_value(0)
    return output
