"""What validation takes beside the least that it can: inference as benchmark_app has it, then pycocotools.

Each round takes benchmark_app's throughput, a whole `validate` of YOLOX-nano on the images of QZD_DATA, and
pycocotools' own evaluation of what was found, one after the other, so that what disturbs one disturbs all.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from report import Row, report

from qzd_ext.bundle import Bundle
from qzd_ext.detections import Detections
from qzd_ext.runner import RunOptions
from qzd_tools.benchmark.benchmark_app import run_benchmark_app
from qzd_tools.convert.run import ConvertOptions, convert
from qzd_tools.data.coco import BoxDataset, read_coco
from qzd_tools.validate.predict import predict
from qzd_tools.validate.run import validate, validation_thresholds
from qzd_tools.validate.scoring import match_categories

TARGET = 1.15


def results(bundle: Bundle, dataset: BoxDataset) -> list[dict[str, Any]]:
    """Detect, and write what pycocotools reads from a results file."""
    manifest = bundle.manifest
    thresholds = validation_thresholds(manifest)
    found, _ = predict(bundle, dataset.pictures, thresholds, RunOptions(), "results")
    categories = match_categories(manifest.labels, dataset.categories).by_class
    entries = []
    for picture, one in zip(dataset.pictures, found, strict=True):
        assert isinstance(one, Detections)
        sides = one.boxes.copy()
        sides[:, 2:] -= sides[:, :2]
        columns = (sides.tolist(), one.scores.tolist(), one.class_ids.tolist())
        for box, score, number in zip(*columns, strict=True):
            entry = {"image_id": picture.truth, "category_id": categories[number]}
            entries.append(entry | {"bbox": box, "score": score})
    return entries


def evaluation_seconds(annotations: Path, entries: list[dict[str, Any]]) -> float:
    """Time pycocotools from its files to its figures."""
    begin = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
        evaluation = COCOeval(truth, truth.loadRes([dict(one) for one in entries]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return time.perf_counter() - begin


def measure(bundle: Bundle, annotations: Path, rounds: int, seconds: float) -> list[Row]:
    """Return the medians of the rounds."""
    dataset = read_coco(annotations)
    entries = results(bundle, dataset)
    allowed, taken, ratios = [], [], []
    for _ in range(rounds):
        rate = run_benchmark_app(bundle.model, RunOptions(), len(os.sched_getaffinity(0)), seconds).throughput
        judging = evaluation_seconds(annotations, entries)
        begin = time.perf_counter()
        running = validate(bundle, dataset).seconds
        taken.append(time.perf_counter() - begin)
        allowed.append(len(dataset.pictures) / rate + judging)
        ratios.append(taken[-1] / allowed[-1])
        print(
            f"benchmark_app {rate:.1f}/s, pycocotools {judging:.2f} s, "
            f"validate {running:.2f} of {taken[-1]:.2f} s, ratio {ratios[-1]:.3f}"
        )
    return [
        Row("validate, 202 images", statistics.median(taken), unit="s"),
        Row("inference by benchmark_app's throughput, and pycocotools", statistics.median(allowed), unit="s"),
        Row("validate, beside these", statistics.median(ratios), TARGET),
    ]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0, help="of benchmark_app, each round")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("QZD_DATA", "../shared/data")))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = convert([options.data / "models" / "yolox_nano.onnx"], Path(folder) / "b", ConvertOptions())
        annotations = options.data / "coco" / "validation" / "instances.json"
        report(measure(bundle, annotations, options.rounds, options.seconds), options.json)


if __name__ == "__main__":
    main()
