"""TensorFlow Lite models, also those that end in TFLite_Detection_PostProcess.

OpenVINO has no translator for that operation, so the graph is converted up to it; its inputs are the raw
heads and the priors, its options the scales.
"""

from __future__ import annotations

import math
from pathlib import Path

import openvino as ov
from openvino import opset13 as ops
from openvino.frontend import FrontEndManager

from qzd_ext.errors import ModelError
from qzd_ext.manifest import Ssd
from qzd_tools.convert.facts import Recognised, known
from qzd_tools.convert.formats.dequantize import QUANTIZING, constant_values, to_float
from qzd_tools.convert.formats.flatbuffers import custom_options, flexbuffer_map
from qzd_tools.convert.heads.ssd import FAMILY, raw_scores
from qzd_tools.graph.walk import core, skip

__all__ = ["read"]

POST_PROCESS = "TFLite_Detection_PostProcess"
NEEDED = ("y_scale", "x_scale", "h_scale", "w_scale", "num_classes")


def read(path: Path) -> tuple[ov.Model, Recognised | None]:
    """Read a .tflite file into a graph in float.

    Returns
    -------
    ov.Model
        Its results are those of the file, or the raw heads before post-processing.
    Recognised or None
        The head `ssd`, where the file ends in TFLite_Detection_PostProcess.

    Raises
    ------
    ModelError
        The file is damaged, or its post-processing is not as TensorFlow's exporter writes it.
    RuntimeError
        OpenVINO cannot read it.
    """
    try:
        options = custom_options(path.read_bytes(), POST_PROCESS)
        stated = None if options is None else flexbuffer_map(options)
    except ValueError as error:
        raise ModelError(
            f"{path}: {error}", wanted="a TensorFlow Lite model", fix="export it again"
        ) from error
    if stated is None:
        model = core().read_model(path)
        to_float(model)
        return model, None
    return _before_post_process(path, stated)


def _before_post_process(path: Path, stated: dict[str, float]) -> tuple[ov.Model, Recognised]:
    missing = [name for name in NEEDED if not math.isfinite(stated.get(name, math.nan))]
    if missing:
        given = ", ".join(f"{name} {value:g}" for name, value in stated.items())
        raise ModelError(f"{path}: the options of {POST_PROCESS} are {given}", wanted=", ".join(missing))
    frontend = FrontEndManager().load_by_framework("tflite")
    partial = frontend.convert_partially(frontend.load(str(path)))
    codes, scores, anchors = partial.get_results()[0].input_value(0).get_node().input_values()
    heads = [ops.result(skip(output, QUANTIZING)) for output in (codes, scores)]
    model = ov.Model(heads, partial.get_parameters(), path.stem)
    _check_translated(path, model)
    was_quantized = to_float(model)
    raw, activation = raw_scores(model.get_results()[1].input_value(0))
    model.get_results()[1].input(0).replace_source_output(raw)
    model.validate_nodes_and_infer_types()
    (priors,) = constant_values([anchors])
    classes = int(stated["num_classes"])
    scales = (stated["y_scale"], stated["x_scale"], stated["h_scale"], stated["w_scale"])
    found = Recognised(
        Ssd(scales=scales, activation=activation, background=raw.shape[2] == classes + 1),
        (),
        classes,
        f"{POST_PROCESS}, cut off: {len(priors)} box codes with scales {scales}, and {raw.shape[2]} class "
        f"scores each, {activation} still to be applied" + ("; 8 bits put back into float" * was_quantized),
        FAMILY.over(known(f"the options of {POST_PROCESS}", iou=_rounded(stated.get("nms_iou_threshold")))),
        priors,
    )
    return model, found


def _check_translated(path: Path, model: ov.Model) -> None:
    """Refuse a graph with operations before the post-processing that OpenVINO left as they are."""
    left = [n.get_friendly_name() for n in model.get_ordered_ops() if "FrameworkNode" in n.get_type_name()]
    if left:
        raise ModelError(
            f"{path}: OpenVINO has no translator for {', '.join(left)}",
            wanted=f"operations that it has one for, and {POST_PROCESS} at the end",
            fix="export the model with TensorFlow Lite's built-in operations alone",
        )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
