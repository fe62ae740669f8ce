"""What exporters wrote into a model beside its graph.

Model API, Geti and Ultralytics leave `model_info` in an IR's rt_info; Model Optimizer left
`conversion_parameters`; ONNX files carry metadata_props, which OpenVINO shows under `framework`. What may
live here: reading those, and nothing that looks at operations.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping

import openvino as ov

from qzd_ext.errors import ModelError
from qzd_tools.convert.facts import Facts, known
from qzd_tools.convert.labels import from_names

__all__ = ["read_metadata", "read_size"]

RESIZE = {
    "standard": ("stretch", None),
    "fit_to_window": ("letterbox", "corner"),
    "fit_to_window_letterbox": ("letterbox", "center"),
    "crop": ("crop", None),
}
"""Model API's resize types as a bundle's resize and anchor."""

TASKS = {"detect", "classify"}
BOXED = {"segment": "masks", "pose": "keypoints"}
"""Ultralytics' tasks whose models give boxes and classes too, and what else they give."""

MODEL_TYPES = {
    "yolox": "yolox", "yolov5": "yolo_v5", "yolov8": "yolo_v8", "yolov9": "yolo_v8", "yolo11": "yolo_v8",
    "yolov10": "end_to_end", "ssd": "detection_output", "classification": "classification",
}  # fmt: skip
"""Model API's model types as heads; `YOLO`, which Ultralytics writes for all of its models, says nothing."""


def read_metadata(model: ov.Model, name: str, side: int, boxes_only: bool = False) -> Facts:
    """Everything that a model's metadata says.

    Parameters
    ----------
    model : ov.Model
    name : str
        The model's name.
    side : int
        The longer one of the model's picture, in pixels. A crop that metadata asks for is as large as the
        frame allows: neither Model API nor Ultralytics leaves a margin.
    boxes_only : bool
        Whether the masks or keypoints of another task may be left out.

    Raises
    ------
    ModelError
        The metadata says that the model is for another task.
    """
    found = (
        _model_info(_section(model, "model_info"), len(model.outputs[0].partial_shape))
        .over(_ultralytics(_section(model, "framework"), len(model.outputs[0].partial_shape), boxes_only))
        .over(_described_input(_section(model, "framework")))
        .over(_conversion_parameters(_section(model, "conversion_parameters")))
        .over(_name_of_intel(name))
    )
    return found.over(known(found.why["resize"], short_side=side)) if found.resize == "crop" else found


def read_size(model: ov.Model) -> tuple[int, int] | None:
    """Height and width that Ultralytics says the model was exported at; None where it says nothing."""
    size = _numbers(_section(model, "framework").get("imgsz"))
    return (int(size[0]), int(size[-1])) if size else None


def _section(model: ov.Model, name: str) -> dict[str, str]:
    """A table of rt_info as text; empty where there is none."""
    if not model.has_rt_info(name):
        return {}
    table = model.get_rt_info()[name]
    if not isinstance(table, Mapping):
        return {}
    return {key: _text(value.value) for key, value in table.items() if not isinstance(value, Mapping)}


def _text(value: object) -> str:
    """As an IR has it: lists with spaces between their items."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value).strip()


def _numbers(text: str | None) -> tuple[float, ...] | None:
    found = re.findall(r"-?\d+\.?\d*(?:[eE][-+]?\d+)?", text or "")
    return tuple(x for x in map(float, found) if math.isfinite(x)) or None


def _number(text: str | None) -> float | None:
    found = _numbers(text)
    return found[0] if found else None


def _flag(text: str | None) -> bool | None:
    return None if text is None else text.lower() in {"true", "1", "yes"}


def _model_info(info: dict[str, str], rank: int) -> Facts:
    if not info:
        return Facts()
    if _flag(info.get("hierarchical")):
        raise ModelError(
            "the model's metadata says that its classes are a hierarchy", wanted="a detector or a classifier",
            fix="export a model whose classes are all of one kind",
        )  # fmt: skip
    resize, anchor = RESIZE.get(info.get("resize_type", ""), (None, None))
    if info.get("model_type", "").lower() == "yolo" and resize is None and rank == 2:
        resize = "crop"  # Ultralytics states how frames are fitted for detectors only
    reverse = _flag(info.get("reverse_input_channels"))
    pad = _number(info.get("pad_value"))
    names = [n.replace("_", " ") for n in info.get("labels", "").split()]
    ours = info.get("model_type", "").lower() == "yolo"
    embedded = _flag(info.get("embedded_processing"))
    mean = (0.0,) if embedded else _numbers(info.get("mean_values"))
    scale = (1.0,) if embedded else _numbers(info.get("scale_values"))
    if ours and scale is not None:
        mean = mean or (0.0,)
    return known(
        "rt_info model_info",
        head=MODEL_TYPES.get(info.get("model_type", "").lower()),
        color=None if reverse is None else "rgb" if reverse and not embedded else "bgr",
        mean=mean or ((0.0,) if scale else None),
        scale=scale or ((1.0,) if mean else None),
        resize=resize,
        anchor=anchor,
        pad=None if pad is None else int(pad),
        labels=from_names(names) if names else None,
        confidence=_number(info.get("confidence_threshold")),
        iou=_number(info.get("iou_threshold")),
        multilabel=_flag(info.get("multilabel")),
    )


def _ultralytics(properties: dict[str, str], rank: int, boxes_only: bool) -> Facts:
    """`task`, `stride` and `names` as Ultralytics writes them.

    YOLOv5 gives no task. Its classifiers, whose output has a rank of 2, are not fed as its detectors are.
    """
    if not {"names", "stride"} <= properties.keys():
        return Facts()
    task = properties.get("task", "detect")
    if task not in TASKS and not (boxes_only and task in BOXED):
        fix = "export a model of task detect or classify"
        raise ModelError(
            f"the model's metadata says that its task is {task!r}{' (oriented boxes)' * (task == 'obb')}",
            wanted="a detector or a classifier",
            fix=f"state --boxes-only to leave out its {BOXED[task]}" if task in BOXED else fix,
        )
    listed = _listed(properties["names"])
    reason = "Ultralytics metadata in the model"
    found = known(reason, labels=from_names(listed) if listed else None)
    if rank == 2 and "task" not in properties:
        return found
    if task == "classify":
        return found.over(
            known(reason, head="classification", color="rgb", mean=(0.0,), scale=(255.0,), resize="crop")
        )
    trained = known(
        reason, color="rgb", mean=(0.0,), scale=(255.0,), resize="letterbox", anchor="center", pad=114,
        normalized=False,
    )  # fmt: skip
    return found.over(trained)


def _listed(text: str) -> list[str]:
    """The names in a Python dictionary's text, or in a list's, as YOLOv5 wrote it; else none."""
    try:
        names = ast.literal_eval(text)
        found = [names[i] for i in sorted(names, key=int)] if isinstance(names, dict) else names
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return []
    return [str(name) for name in found] if isinstance(found, list) else []


def _described_input(properties: dict[str, str]) -> Facts:
    """A property `input` such as `RGB (x-127.5)/127.5 NCHW`."""
    text = properties.get("input", "")
    color = re.search(r"\b(RGB|BGR)\b", text)
    formula = re.search(r"\(x\s*-\s*(\d+\.?\d*)\)\s*/\s*(\d+\.?\d*)", text)
    return known(
        f"the model's metadata: input = {text!r}",
        color=color.group(1).lower() if color else None,
        mean=(float(formula.group(1)),) if formula else None,
        scale=(float(formula.group(2)),) if formula else None,
    )


def _conversion_parameters(parameters: dict[str, str]) -> Facts:
    """What Model Optimizer folded in: reversed channels mean that BGR goes in.

    That of 2021 lists what it was not given as well: `()`, which is no number.
    """
    folded = any(_numbers(parameters.get(key)) for key in ("mean_values", "scale_values", "scale"))
    reversed_ = _flag(parameters.get("reverse_input_channels"))
    return known(
        "rt_info conversion_parameters of Model Optimizer, which folded it in",
        color="bgr" if reversed_ else None,
        mean=(0.0,) if folded else None,
        scale=(1.0,) if folded else None,
    )


def _name_of_intel(name: str) -> Facts:
    """Open Model Zoo names its detectors of one class after it: person-detection-0200."""
    match = re.fullmatch(r"(person|face|vehicle|pedestrian)-detection(?:-[a-z]+)*-\d{4}", name)
    if match is None:
        return Facts()
    reason = f"the name {name}, as Open Model Zoo names its detectors of one class"
    return known(reason, labels=from_names([match.group(1)]))
