"""What quantization costs and gains: FP32, NNCF's presets and qzd's modes, beside each other.

For each model of QZD_DATA: accuracy in f32 on all validation images through the same `Detector`, the change
from FP32 with its 95 % interval, agreement with the float model's own boxes, natively and as a CPU without
VNNI computes (`ONEDNN_MAX_CPU_ISA`), throughput in turns in one process, and the time that quantizing takes
beside a bare `nncf.quantize` call on the same images; of the modes without data accuracy and size.

Times are processor time of this process, so that other programs on the machine do not count; a throughput is
inferences per second of one core. The choice among candidates never sees a validation image.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
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
from qzd_tools.quantize.calibration import preparer
from qzd_tools.quantize.draft import Mode
from qzd_tools.quantize.recipe import quiet_nncf
from qzd_tools.quantize.run import quantize
from qzd_tools.system.isa import host_isa
from qzd_tools.validate.bootstrap import Interval
from qzd_tools.validate.run import Validation, validate

DROP = 0.003
CLASSIFIER_DROP = 1 / 250 + 1e-9
ENOUGH = 0.95
TIME, QUICK_TIME = 3.0, 1.1
ISA_DIFFERENCE = 0.002
MODE_DROP = 0.003
CLASSIFIER_MODE_DROP = 1 / 250 + 1e-9
"""Of the modes without data; one image of a classifier is more than 0.003."""
WITHOUT_DATA: tuple[Mode, ...] = ("int8-weights", "fp16")

MODELS = {
    "yolox_nano": "models/yolox_nano.onnx",
    "yolo-fastest": "darknet/yolo-fastest-1.1-xl.cfg",
    "mbv2-yolov3-nano": "darknet/mbv2-yolov3-nano.cfg",
    "yolov8n": "models/yolov8n.onnx",
    "ssd_mobilenet_v1": "models/ssd_mobilenet_v1_coco.xml",
    "ssd_mobilenet_v1_tflite": "models/ssd_mobilenet_v1_coco_quant_detect.tflite",
    "person-detection-0200": "models/person-detection-0200/FP16/person-detection-0200.xml",
    "mobilenet_v2": "models/mobilenet_v2_1.0_224.onnx",
}


@dataclass(frozen=True)
class Variant:
    """One INT8 model beside the float one."""

    accuracy: float
    change: Interval
    agreement: float
    speed: float
    """Inferences per second beside FP32's."""


@dataclass(frozen=True)
class Figures:
    """One model: mAP or top-1, agreement, speed, and seconds to quantize beside NNCF's."""

    name: str
    float_accuracy: float
    variants: dict[str, Variant]
    """NNCF's two presets, the plain recipe (`--quick`), and the default."""
    chosen: str
    avx2: float
    """Agreement of the default as a CPU without VNNI computes it."""
    seconds: tuple[float, float]
    """Of the plain recipe and the default, beside a bare call of NNCF."""
    bytes: tuple[int, int]
    """Of the bundle: FP32, the default."""
    modes: dict[Mode, tuple[float, int]]
    """Accuracy and bytes of the modes without data."""
    classifier: bool


def measure(name: str, data: Path, work: Path) -> Figures:
    """Convert, quantize in every way, and measure."""
    parent = convert([data / MODELS[name]], work / f"{name}-fp32", ConvertOptions())
    images = list_images(data / "coco" / "calibration" / "images")
    dataset = dataset_for(parent, data)
    made: dict[str, Bundle] = {}
    bare = 0.0
    for preset in ("performance", "mixed"):
        made[f"nncf {preset}"], bare = by_nncf(parent, images, preset, work / f"{name}-nncf-{preset}")
    quick = quantize(parent, work / f"{name}-quick", prefer=None, images=images)
    ours = quantize(parent, work / f"{name}-int8", images=images)
    made |= {"quick": quick.bundle, "default": ours.bundle}
    before = validate(parent, dataset)
    targets = [(bundle, RunOptions()) for bundle in (parent, *made.values())]
    whole, *rates = throughputs(targets, rounds=9, seconds=0.5, clock=time.process_time)
    pairs = zip(made.items(), rates, strict=True)
    variants = {key: compared(validate(one, dataset), before, rate / whole) for (key, one), rate in pairs}
    modes: dict[Mode, tuple[float, int]] = {}
    for mode in WITHOUT_DATA:
        small = quantize(parent, work / f"{name}-{mode}", mode=mode).bundle
        modes[mode] = (validate(small, dataset).score.main, small.size)
    return Figures(
        name,
        before.score.main,
        variants,
        next((one.candidate.name for one in ours.candidates if one.chosen), "plain"),
        agreement_on(ours.bundle, parent, dataset, "AVX2", work / f"{name}-avx2.json"),
        (quick.processor_seconds / bare, ours.processor_seconds / bare),
        (parent.size, ours.bundle.size),
        modes,
        parent.manifest.task == "classification",
    )


def compared(after: Validation, before: Validation, speed: float) -> Variant:
    """Put a validation beside the float model's."""
    change = next(iter(after.change_from(before).values()))
    return Variant(after.score.main, change, after.agreement_with(before).value, speed)


def by_nncf(parent: Bundle, images: list[Path], preset: str, path: Path) -> tuple[Bundle, float]:
    """Quantize with NNCF as it comes; the bundle, and the processor's seconds."""
    model = ov.Core().read_model(parent.model)
    calibration = nncf.Dataset(images, preparer(parent.manifest.input))
    begin = time.process_time()
    with quiet_nncf():
        quantized = nncf.quantize(
            model, calibration, subset_size=len(images), preset=nncf.QuantizationPreset(preset)
        )
    seconds = time.process_time() - begin
    path.mkdir()
    ov.save_model(quantized, path / bundles.MODEL, compress_to_fp16=False)
    return bundles.unsealed(path, parent.manifest, parent.priors), seconds


def agreement_on(bundle: Bundle, parent: Bundle, dataset: Dataset, isa: str, result: Path) -> float:
    """Measure agreement in a process of its own that has an instruction set at most."""
    folder = result.with_suffix("")
    folder.mkdir()
    for picture in dataset.pictures:
        (folder / picture.path.name).symlink_to(picture.path.absolute())
    words = ["validate", str(bundle.path), "--baseline", str(parent.path), "--images", str(folder)]
    start = "from qzd_tools.cli import main; import sys; sys.exit(main())"
    subprocess.run(
        [sys.executable, "-c", start, *words, "--json", str(result)],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": isa},
    )
    return float(json.loads(result.read_text())["agreement"]["value"])


def dataset_for(bundle: Bundle, data: Path) -> Dataset:
    """All validation images of the model's kind."""
    if bundle.manifest.task == "classification":
        return read_imagenet(data / "imagenet" / "labels.txt", None, bundle.manifest.labels.names)
    return read_coco(data / "coco" / "validation" / "instances.json")


def rows(found: Figures) -> list[Row]:
    """Put the figures of one model beside their targets."""
    unit = "top-1" if found.classifier else "mAP"
    limit = CLASSIFIER_DROP if found.classifier else DROP
    mode_limit = CLASSIFIER_MODE_DROP if found.classifier else MODE_DROP
    ours, name = found.variants["default"], found.name
    nncf_best = max(found.variants[f"nncf {preset}"].agreement for preset in ("performance", "mixed"))
    modes = []
    for mode, (accuracy, size) in found.modes.items():
        drop = abs(found.float_accuracy - accuracy)
        modes.append(Row(f"{name}: drop by {mode}", drop, mode_limit, unit=unit))
        modes.append(Row(f"{name}: size by {mode}, beside FP32", size / found.bytes[0]))
    return [
        Row(f"{name}: drop by the default, near end of its interval", -ours.change.high, limit, unit=unit),
        Row(f"{name}: agreement by the default", ours.agreement, ENOUGH, "higher"),
        Row(f"{name}: agreement beside NNCF's best", ours.agreement - nncf_best, 0.0, "higher"),
        Row(f"{name}: agreement on AVX2, difference", abs(ours.agreement - found.avx2), ISA_DIFFERENCE),
        Row(f"{name}: throughput, beside FP32", ours.speed, better="higher"),
        Row(f"{name}: throughput, beside NNCF's", ours.speed / found.variants["nncf performance"].speed),
        Row(f"{name}: time, beside a bare nncf.quantize", found.seconds[1], TIME),
        Row(f"{name}: time with --quick, beside a bare nncf.quantize", found.seconds[0], QUICK_TIME),
        Row(f"{name}: size, beside FP32", found.bytes[1] / found.bytes[0]),
        *modes,
    ]


def table(figures: list[Figures]) -> str:
    """Write the figures as a Markdown table."""
    titles = ["model", "FP32", "default", "95 % interval"]
    titles += ["agreement: NNCF", "mixed", "quick", "default", "default on AVX2"]
    titles += ["speed: NNCF", "quick", "default", "time: quick", "default", "size", "what stays in float"]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for one in figures:
        ours = one.variants["default"]
        cells = [one.name, f"{one.float_accuracy:.4f}", f"{ours.accuracy:.4f}"]
        cells.append(f"{ours.change.low:+.4f} {ours.change.high:+.4f}")
        cells += [f"{v.agreement:.3f}" for v in one.variants.values()] + [f"{one.avx2:.3f}"]
        cells += [f"{v.speed:.2f}" for key, v in one.variants.items() if key != "nncf mixed"]
        cells += [f"{value:.2f}" for value in (*one.seconds, one.bytes[1] / one.bytes[0])]
        lines.append(f"| {' | '.join([*cells, one.chosen])} |")
    return f"Measured on {', '.join(host_isa())}.\n\n" + "\n".join(lines)


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
