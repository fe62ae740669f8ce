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


def raw_distributions(
    output: ov.Output, cells: int, classes: int
) -> tuple[tuple[ov.Output, ...], int] | None:
    """Find where YOLOv8's output is still raw predictions.

    Parameters
    ----------
    output : ov.Output
        `[1, 4 + classes, cells]` or its transpose.
    cells, classes : int

    Returns
    -------
    tuple of ov.Output, int
        The tensor `[1, 4 * bins + classes, cells]`, or `[1, 4 * bins, cells]` and `[1, classes, cells]`;
        and bins. None if the graph is not of that kind.
    """
    softmax = next((n for n in ancestors(output) if n.get_type_name() == "Softmax"), None)
    scores = [p for p in producers(output) if p.get_node().get_type_name() == "Sigmoid"]
    if softmax is None or not scores:
        return None
    bins = softmax.output(0).shape[softmax.get_attributes()["axis"]]
    before, logits = softmax.input_value(0), scores[0].get_node().input_value(0)
    joined = _moved(before, [1, 4 * bins + classes, cells])
    if joined is not None and is_raw(joined):
        same = _moved(logits, [1, 4 * bins + classes, cells])
        return ((joined,), bins) if same is not None and same.get_node() == joined.get_node() else None
    sides, apart = _moved(before, [1, 4 * bins, cells]), _moved(logits, [1, classes, cells])
    if len(scores) > 1 or sides is None or apart is None or not is_raw(sides) or not is_raw(apart):
        return None
    return (sides, apart), bins


def _moved(output: ov.Output, shape: list[int]) -> ov.Output | None:
    """Walk up through moves to the tensor of this shape."""
    while list(output.shape) != shape:
        node = output.get_node()
        if node.get_type_name() not in LAYOUT - {"Concat"}:
            return None
        output = node.input_value(0)
    return output
