"""The boxes and classes of a model that gives masks or keypoints as well."""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from qzd_ext.errors import ModelError, UsageError
from qzd_ext.manifest import Labels
from qzd_tools.convert.facts import FLAGS

__all__ = ["boxes_of"]


def boxes_of(model: ov.Model, labels: Labels | None) -> ov.Model:
    """Cut off what a model gives per box beside 4 coordinates and its classes.

    Parameters
    ----------
    model : ov.Model
        With an output `[1, 4 + C + more, N]`.
    labels : Labels or None
        Their number is C.

    Raises
    ------
    UsageError
        The labels are not known, or there is nothing to cut off.
    ModelError
        No output has that form.
    """
    if labels is None:
        raise UsageError("--boxes-only needs the model's labels, and nothing says them", fix=FLAGS["labels"])
    channels = 4 + len(labels.names)
    outputs = [r.input_value(0) for r in model.get_results() if len(r.input_value(0).partial_shape) == 3]
    if len(outputs) != 1 or outputs[0].shape[1] < channels:
        found = ", ".join(str(r.input_value(0).partial_shape) for r in model.get_results())
        raise ModelError(f"the model's outputs are {found}", wanted=f"one [1,{channels} or more,N]")
    if outputs[0].shape[1] == channels:
        raise UsageError("--boxes-only, but the model gives nothing beside boxes", fix="leave it out")
    ends = (np.array([value]) for value in (0, channels, 1, 1))
    part = ov.Model([ops.slice(outputs[0], *ends)], model.get_parameters(), model.get_friendly_name())
    for key in ("framework", "model_info"):
        if model.has_rt_info(key):
            part.set_rt_info(model.get_rt_info()[key], key)
    return part
