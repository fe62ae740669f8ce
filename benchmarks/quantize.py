"""What quantization costs and gains: FP32, NNCF's defaults and qzd's modes, beside each other.

For each model of QZD_DATA: accuracy of the three on all validation images through the same `Detector`,
throughput in turns in one process, and the time that quantizing takes beside a bare `nncf.quantize` call
with the same parameters on the same images; of the modes without data accuracy and size. Times are
processor time of this process, so that other programs on the machine do not count; a throughput is
inferences per second of one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import nncf
import openvino as ov
from report import Row, report

from qzd_ext import bundle as bundles
from qzd_ext.bundle import Bundle
from qzd_ext.runner import RunOptions
from qzd_tools.benchmark.throughput import throughputs
from qzd_tools.convert.run import ConvertOptions, convert
from qzd_tools.data.coco import Dataset, read_coco
from qzd_tools.data.imagenet import read_imagenet
from qzd_tools.data.images import list_images
from qzd_tools.quantize.calibration import choose, preparer
from qzd_tools.quantize.recipe import Recipe, nncf_parameters, quiet_nncf
from qzd_tools.quantize.run import Mode, quantize
from qzd_tools.validate.run import validate

DROP = 0.005
CLASSIFIER_DROP = 3 / 250 + 1e-9
SPEED = 0.95
TIME = 1.1
MODE_DROP = 0.003
CLASSIFIER_MODE_DROP = 1 / 250 + 1e-9
"""Of the modes without data; one image of a classifier is more than 0.003."""
WITHOUT_DATA: tuple[Mode, ...] = ("int8-weights", "fp16")

MODELS = {
    "yolox_nano": "models/yolox_nano.onnx",
    "yolo-fastest": "darknet/yolo-fastest-1.1-xl.cfg",
    "yolov8n": "models/yolov8n.onnx",
    "ssd_mobilenet_v1": "models/ssd_mobilenet_v1_coco.xml",
    "ssd_mobilenet_v1_tflite": "models/ssd_mobilenet_v1_coco_quant_detect.tflite",
    "person-detection-0200": "models/person-detection-0200/FP16/person-detection-0200.xml",
    "mobilenet_v2": "models/mobilenet_v2_1.0_224.onnx",
}


@dataclass(frozen=True)
class Figures:
    """Measure one model: mAP or top-1, inferences per second, and seconds to quantize."""

    name: str
    accuracy: tuple[float, float, float]
    """FP32, NNCF's defaults, ours."""
    speed: tuple[float, float, float]
    seconds: tuple[float, float]
    """A bare call of NNCF with our parameters, ours."""
    bytes: tuple[int, int]
    """Of the bundle: FP32, ours."""
    modes: dict[Mode, tuple[float, int]]
    """Accuracy and bytes of the modes without data."""
    classifier: bool


def measure(name: str, data: Path, work: Path) -> Figures:
    """Convert, quantize in three ways, and measure."""
    parent = convert([data / MODELS[name]], work / f"{name}-fp32", ConvertOptions())
    images = list_images(data / "coco" / "calibration" / "images")
    dataset = dataset_for(parent, data)
    prepare = preparer(parent.manifest.input)
    begin = time.process_time()
    chosen = choose(images, 300, 0, prepare).images
    choosing = time.process_time() - begin
    calibration = nncf.Dataset(chosen, prepare)

    def bare(path: Path, **parameters: object) -> tuple[Path, float]:
        model = ov.Core().read_model(parent.model)
        begin = time.process_time()
        with quiet_nncf():
            quantized = nncf.quantize(model, calibration, subset_size=len(images), **parameters)
        seconds = time.process_time() - begin
        path.mkdir()
        ov.save_model(quantized, path / bundles.MODEL, compress_to_fp16=False)
        return path, seconds

    defaults, _ = bare(work / f"{name}-nncf")
    recipe = Recipe()
    _, seconds = bare(work / f"{name}-bare", **nncf_parameters(ov.Core().read_model(parent.model), recipe))
    ours = quantize(parent, work / f"{name}-int8", recipe=recipe, images=images)
    candidates = [parent, bundles.unsealed(defaults, parent.manifest, parent.priors), ours.bundle]
    scores = [validate(bundle, dataset).score.main for bundle in candidates]
    models = [bundle.model for bundle in candidates]
    targets = [(model, RunOptions()) for model in models]
    speeds = throughputs(targets, rounds=9, seconds=1.0, clock=time.process_time)
    modes: dict[Mode, tuple[float, int]] = {}
    for mode in WITHOUT_DATA:
        small = quantize(parent, work / f"{name}-{mode}", mode=mode).bundle
        modes[mode] = (validate(small, dataset).score.main, small.size)
    return Figures(
        name,
        (scores[0], scores[1], scores[2]),
        (speeds[0], speeds[1], speeds[2]),
        (seconds, choosing + ours.processor_seconds),
        (parent.size, ours.bundle.size),
        modes,
        parent.manifest.task == "classification",
    )


def dataset_for(bundle: Bundle, data: Path) -> Dataset:
    """All validation images of the model's kind."""
    if bundle.manifest.task == "classification":
        return read_imagenet(data / "imagenet" / "labels.txt", None, bundle.manifest.labels.names)
    return read_coco(data / "coco" / "validation" / "instances.json")


def rows(found: Figures) -> list[Row]:
    """Return the figures of one model beside their targets."""
    float_, defaults, ours = found.accuracy
    unit = "top-1" if found.classifier else "mAP"
    limit = CLASSIFIER_DROP if found.classifier else DROP
    mode_limit = CLASSIFIER_MODE_DROP if found.classifier else MODE_DROP
    ratio = found.speed[2] / found.speed[1]
    whole = found.bytes[0]
    modes = []
    for mode, (accuracy, size) in found.modes.items():
        modes.append(Row(f"{found.name}: drop by {mode}", abs(float_ - accuracy), mode_limit, unit=unit))
        modes.append(Row(f"{found.name}: size by {mode}, beside FP32", size / whole))
    return [
        Row(f"{found.name}: drop by the default recipe", float_ - ours, limit, unit=unit),
        Row(f"{found.name}: drop by NNCF's defaults", float_ - defaults, unit=unit),
        Row(f"{found.name}: throughput, beside NNCF's defaults", ratio, SPEED, "higher"),
        Row(f"{found.name}: throughput, beside FP32", found.speed[2] / found.speed[0], better="higher"),
        Row(f"{found.name}: time, beside a bare nncf.quantize", found.seconds[1] / found.seconds[0], TIME),
        Row(f"{found.name}: size, beside FP32", found.bytes[1] / whole),
        *modes,
    ]


def table(figures: list[Figures]) -> str:
    """Return the figures as a Markdown table."""
    titles = ["model", "FP32", "NNCF defaults", "int8", "int8-weights", "fp16"]
    titles += ["speed beside NNCF", "beside FP32", "time beside NNCF", "size", "int8-weights", "fp16"]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for one in figures:
        accuracies = (*one.accuracy, *(accuracy for accuracy, _ in one.modes.values()))
        _, default, ours = one.speed
        ratios = (ours / default, ours / one.speed[0], one.seconds[1] / one.seconds[0])
        sizes = (one.bytes[1], *(size for _, size in one.modes.values()))
        cells = [f"{value:.4f}" for value in accuracies] + [f"{value:.2f}" for value in ratios]
        cells += [f"{size / one.bytes[0]:.2f}" for size in sizes]
        lines.append(f"| {' | '.join([one.name, *cells])} |")
    return "\n".join(lines)


def main() -> None:
    """Measure the models that are asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="which; all by default")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("QZD_DATA", "../shared/data")))
    options = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models or MODELS:
            figures.append(measure(name, options.data, Path(folder)))
            print(dataclasses.asdict(figures[-1]), flush=True)
    print(table(figures))
    if options.markdown:
        options.markdown.write_text(table(figures) + "\n")
    report([row for one in figures for row in rows(one)], options.json)


if __name__ == "__main__":
    main()
