"""What the kernels are timed on: real models' results if they are available, else random ones like them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import openvino as ov

from qzd_ext import manifest as m
from qzd_ext.decode import Decoder
from qzd_ext.detections import FloatArray
from qzd_ext.geometry import Transform, fit, prepare

__all__ = ["SYNTHETIC", "Case", "anchor_case", "ssd_case", "v5_case", "v8_case", "x_case"]

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
        boxes = rng.normal(0, 0.7, (3549, 4)).astype(np.float32)
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


def v5_anchor_case() -> Case:
    """80, 40 and 20 cells with 255 channels, `decode = "v5"`."""
    rng = np.random.default_rng(13)
    tensors = []
    for cells in (80, 40, 20):
        grid = rng.normal(-7, 1.5, (1, 3, cells, cells, 85)).astype(np.float32)
        hit = rng.random((1, 3, cells, cells)) < 2e-3
        grid[..., 4][hit], grid[..., 5][hit] = 1, 3
        tensors.append(grid)
    sizes = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326))
    head = m.YoloAnchor(
        anchors=tuple((float(w), float(h)) for w, h in sizes),
        masks=((0, 1, 2), (3, 4, 5), (6, 7, 8)),
        layout="nahwc",
        decode="v5",
    )
    return _case(head, SQUARE, tensors, real=False)


def boxes_scores_case() -> Case:
    """[8400,4] and [8400,80], as from YOLO-NAS."""
    rng = np.random.default_rng(14)
    middle = _centers(rng, 8400, 640)
    boxes = np.concatenate([middle[:, :2] - middle[:, 2:] / 2, middle[:, :2] + middle[:, 2:] / 2], 1)
    return _case(m.BoxesScores(), SQUARE, [boxes[None], _scores(rng, 8400)], real=False)


def distances_case() -> Case:
    """[8400,4] and [8400,80], as from RTMDet."""
    rng = np.random.default_rng(15)
    sides = rng.random((1, 8400, 4)).astype(np.float32) * 4
    return _case(m.Distances(offset=0.0), SQUARE, [sides, _scores(rng, 8400)], real=False)


def dfl_case() -> Case:
    """[3598,112], as from NanoDet-Plus at 416x416."""
    rng = np.random.default_rng(16)
    spec = m.Input(width=416, height=416, resize="stretch")
    head = m.Dfl(strides=(8, 16, 32, 64), offset=0.0, tensors="classes_boxes")
    sides = rng.normal(0, 2, (1, 3598, 32)).astype(np.float32)
    return _case(head, spec, [np.concatenate([_scores(rng, 3598), sides], 2)], real=False)


def detr_case() -> Case:
    """[300,80] and [300,4], as from RT-DETR."""
    rng = np.random.default_rng(17)
    logits = rng.normal(-6, 1.5, (1, 300, 80)).astype(np.float32)
    logits[0, :20, 0] = 1
    boxes = rng.uniform(0.2, 0.6, (1, 300, 4)).astype(np.float32)
    return _case(m.Detr(), SQUARE, [logits, boxes], real=False)


def end_to_end_case() -> Case:
    """[300,6], as from YOLOv10."""
    rng = np.random.default_rng(18)
    rows = np.concatenate([_centers(rng, 300, 640), np.sort(rng.beta(0.3, 4, (300, 1)), 0)[::-1],
                           rng.integers(0, 80, (300, 1))], 1)  # fmt: skip
    return _case(m.EndToEnd(), SQUARE, [rows.astype(np.float32)[None]], real=False)


def yunet_case() -> Case:
    """[8400,6], as from YuNet at 640x640."""
    rng = np.random.default_rng(19)
    values = rng.beta(0.05, 20, (1, 8400, 6)).astype(np.float32)
    values[0, :20, 4:] = 0.9
    return _case(m.Yolox(score="geometric_mean"), SQUARE, [values], classes=1, real=False)


def scrfd_case() -> Case:
    """[16800,4] and [16800,1], as from SCRFD at 640x640."""
    rng = np.random.default_rng(20)
    scores = rng.beta(0.05, 20, (1, 16800, 1)).astype(np.float32)
    scores[0, :20] = 0.9
    sides = rng.random((1, 16800, 4)).astype(np.float32) * 4
    head = m.Distances(offset=0.0, boxes_per_cell=2)
    return _case(head, SQUARE, [sides, scores], classes=1, real=False)


SQUARE = m.Input(width=640, height=640, resize="letterbox")
SYNTHETIC: dict[str, tuple[Callable[[], Case], float | None]] = {
    'yolo_anchor "v5" 640 (80, 40, 20)': (v5_anchor_case, 0.5),
    "boxes_scores [8400,80]": (boxes_scores_case, 1.3),
    "distances [8400,80]": (distances_case, 1.3),
    "dfl [3598,112]": (dfl_case, 1.3),
    "detr [300,80]": (detr_case, None),
    "end_to_end [300,6]": (end_to_end_case, None),
    "yolox, geometric mean [8400,6]": (yunet_case, None),
    "distances, faces [16800,1]": (scrfd_case, 1.3),
}
"""By name: heads that no real model is at hand for, and the target in passes. A tensor that is passed over in
3 us has none: the calls from Python take as long."""


def _scores(rng: np.random.Generator, n: int) -> FloatArray:
    """(1, n, 80), few of them high."""
    likely = (rng.random((1, n, 80)) < 2e-4) * 0.6
    scores = rng.beta(0.02, 20, (1, n, 80)) + likely * rng.random((1, n, 80))
    return np.minimum(scores, 1).astype(np.float32)


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
    """Run a model on a picture of the validation set; returns None if the data are not available."""
    if data is None or not (data / model).exists():
        return None
    picture = cv2.imread(str(sorted((data / "coco/validation/images").glob("*.jpg"))[PICTURE]))
    assert picture is not None
    canvas = np.empty((spec.height, spec.width, 3), np.uint8)
    prepare(np.asarray(picture, np.uint8), spec, canvas)
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
