"""What the kernels are timed on: real models' results where there are some, else random ones like them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import openvino as ov

from qzd_ext import manifest as m
from qzd_ext.decode import Decoder
from qzd_ext.detections import FloatArray
from qzd_ext.geometry import Transform, fit, prepare

__all__ = ["Case", "anchor_case", "ssd_case", "v5_case", "v8_case", "x_case"]

PICTURE = 6
"""By name, of the validation set; it gives as many candidates as the median of the first forty."""


@dataclass(frozen=True)
class Case:
    """One model's results for one frame."""

    decoder: Decoder
    tensors: list[FloatArray]
    transform: Transform
    real: bool


def v8_case(data: Path | None) -> Case:
    """[84, 8400]."""
    spec = m.Input(width=640, height=640, resize="letterbox")
    rng = np.random.default_rng(8)
    tensors = _infer(data, "models/yolov8n.onnx", spec, ["output0"], rgb=True, scale=255)
    if tensors is None:
        likely = (rng.random((80, 8400)) < 2e-4) * 0.6
        scores = rng.beta(0.02, 20, (80, 8400)) + likely * rng.random((80, 8400))
        tensors = [np.concatenate([_centers(rng, 8400, 640).T, scores])[None].astype(np.float32)]
        return _case(m.YoloV8(), spec, tensors, real=False)
    return _case(m.YoloV8(), spec, tensors)


def x_case(data: Path | None) -> Case:
    """[3549, 85]."""
    spec = m.Input(width=416, height=416, resize="letterbox", anchor="corner")
    tensors = _infer(data, "models/yolox_nano.onnx", spec, None, rgb=False, scale=1)
    if tensors is None:
        rng = np.random.default_rng(9)
        boxes = rng.normal(0, 0.7, (3549, 4))
        return _case(m.Yolox(), spec, [_objects(rng, boxes)], real=False)
    return _case(m.Yolox(), spec, tensors)


def ssd_case(data: Path | None) -> Case:
    """[1917, 4] and [1917, 91], logits: the model's IR, cut before the sigmoid."""
    spec = m.Input(width=300, height=300, resize="stretch")
    rng = np.random.default_rng(10)
    names = ["raw_boxes", "t173_Concat", "Constant_1455"]
    tensors = _infer(data, "models/ssd_mobilenet_v1_coco.xml", spec, names, rgb=False, scale=1)
    if tensors is None:
        priors = np.concatenate([rng.random((1917, 2)), rng.random((1917, 2)) / 2], 1).astype(np.float32)
        logits = rng.normal(-7, 1.5, (1917, 91)) + (rng.random((1917, 91)) < 3e-4) * 7
        logits[:, 0] = 5
        tensors = [rng.normal(0, 1, (1, 1917, 4)).astype(np.float32), logits[None].astype(np.float32)]
        return _case(m.Ssd(), spec, tensors, priors, classes=90, real=False)
    *tensors, corners = tensors
    x0, y0, x1, y1 = corners[0, 0].reshape(-1, 4).T
    priors = np.stack([(y0 + y1) / 2, (x0 + x1) / 2, y1 - y0, x1 - x0], 1)
    return _case(m.Ssd(), spec, tensors, priors, classes=90)


def v5_case() -> Case:
    """[25200, 85]: no such model is at hand."""
    rng = np.random.default_rng(11)
    spec = m.Input(width=640, height=640, resize="letterbox")
    return _case(m.YoloV5(), spec, [_objects(rng, _centers(rng, 25200, 640))], real=False)


def anchor_case() -> Case:
    """76, 38 and 19 cells with 255 channels: no such model is at hand."""
    rng = np.random.default_rng(12)
    tensors = []
    for cells in (76, 38, 19):
        grid = rng.normal(-6, 1.5, (3, 85, cells, cells))
        grid[:, :4] = rng.normal(0, 0.7, (3, 4, cells, cells))
        hit = rng.random((3, cells, cells)) < 2e-3
        grid[:, 4] = np.where(hit, 1, grid[:, 4] - 2)
        grid[:, 5][hit] = 3
        tensors.append(grid.reshape(1, 255, cells, cells).astype(np.float32))
    sizes = (12, 16, 19, 36, 40, 28, 36, 75, 76, 55, 72, 146, 142, 110, 192, 243, 459, 401)
    head = m.YoloAnchor(
        anchors=tuple(zip(sizes[::2], sizes[1::2], strict=True)),
        masks=((0, 1, 2), (3, 4, 5), (6, 7, 8)),
        scale_xy=(1.2, 1.1, 1.05),
    )
    return _case(head, m.Input(width=608, height=608, resize="stretch"), tensors, real=False)


def _case(
    head: m.Head,
    spec: m.Input,
    tensors: list[FloatArray],
    priors: FloatArray | None = None,
    classes: int = 80,
    real: bool = True,
) -> Case:
    labels = m.Labels(names=tuple(f"class {i}" for i in range(classes)))
    manifest = m.Manifest(
        name="case", task="detection", precision="fp32", input=spec, head=head, labels=labels
    )
    decoder = Decoder(manifest, [t.shape for t in tensors], priors)
    return Case(decoder, tensors, fit(640, 480, spec), real)


def _centers(rng: np.random.Generator, n: int, side: int) -> FloatArray:
    sizes = np.exp(rng.normal(3.5, 1, (n, 2)))
    return np.concatenate([rng.random((n, 2)) * side, sizes], 1).astype(np.float32)


def _objects(rng: np.random.Generator, boxes: FloatArray) -> FloatArray:
    """Rows whose objectness is high about twice in a thousand, with one likely class each."""
    n = len(boxes)
    objectness = np.where(rng.random(n) < 2e-3, 0.4 + rng.random(n) * 0.6, rng.beta(0.1, 20, n))
    scores = rng.beta(0.1, 10, (n, 80))
    scores[np.arange(n), rng.integers(0, 80, n)] = 0.9
    return np.concatenate([boxes, objectness[:, None], scores], 1)[None].astype(np.float32)


def _infer(
    data: Path | None, model: str, spec: m.Input, outputs: list[str] | None, *, rgb: bool, scale: float
) -> list[FloatArray] | None:
    """A model's results for a picture of the validation set; None where they are not there."""
    if data is None or not (data / model).exists():
        return None
    picture = cv2.imread(str(sorted((data / "coco/validation/images").glob("*.jpg"))[PICTURE]))
    assert picture is not None
    canvas = np.empty((spec.height, spec.width, 3), np.uint8)
    prepare(picture, spec, canvas)
    core = ov.Core()
    graph = core.read_model(data / model)
    if outputs is not None and outputs != ["output0"]:
        nodes = {node.get_friendly_name(): node for node in graph.get_ops()}
        graph = ov.Model([nodes[name] for name in outputs], graph.get_parameters(), "cut")
    pixels = (canvas[..., ::-1] if rgb else canvas).astype(np.float32) / scale
    if graph.inputs[0].partial_shape[1].get_length() == 3:
        pixels = pixels.transpose(2, 0, 1)
    results = core.compile_model(graph, "CPU")(np.ascontiguousarray(pixels)[None])
    return [np.array(results[i]) for i in range(len(graph.outputs))]
