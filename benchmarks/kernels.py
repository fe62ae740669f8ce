"""How fast decode and NMS are, beside one pass of `max` over the same array and beside OpenCV.

Medians of calls taken in turns, in one run; ratios of them. "pass" is `numpy.max` over all values that the
model gave; "OpenCV" is decoding in NumPy and `cv2.dnn.NMSBoxesBatched`.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from report import Row, medians, report
from tensors import SYNTHETIC, Case, anchor_case, ssd_case, v5_case, v8_case, x_case

from qzd_ext._nms import nms
from qzd_ext.detections import FloatArray, IntArray
from qzd_ext.manifest import Thresholds

EVERYTHING = 10**6
OPENCV_NMS: Callable[..., object] = cv2.dnn.NMSBoxesBatched  # its stub knows only lists
Boxes = tuple[FloatArray, FloatArray, IntArray]


def decoding(case: Case, thresholds: Thresholds) -> Callable[[], object]:
    """Our decode of a case."""
    return lambda: case.decoder.decode(case.tensors, case.transform, thresholds)


def passing(case: Case) -> Callable[[], object]:
    """NumPy's `max` over the same tensors."""
    return lambda: [tensor.max() for tensor in case.tensors]


def opencv_v8(case: Case, t: Thresholds) -> Callable[[], object]:
    """YOLOv8's decode in NumPy, then OpenCV's NMS."""

    def call() -> object:
        values = case.tensors[0][0]
        if t.multi_label:
            labels, anchors = np.nonzero(values[4:] >= t.confidence)
            scores = values[4 + labels, anchors]
        else:
            best = values[4:].max(0)
            anchors = np.flatnonzero(best >= t.confidence)
            scores, labels = best[anchors], values[4:, anchors].argmax(0)
        x, y, w, h = values[:4, anchors]
        boxes = np.stack([x - w / 2, y - h / 2, w, h], 1)
        return OPENCV_NMS(boxes, scores, labels.astype(np.int32), t.confidence, t.iou)

    return call


def decode_rows(data: Path | None) -> list[Row]:
    """Whole decodes, from tensors to detections in the frame."""
    rows = []
    serving, validation = (
        Thresholds(),
        Thresholds(
            confidence=0.001, iou=0.65, multi_label=True, max_candidates=EVERYTHING, max_detections=EVERYTHING
        ),
    )
    v8 = v8_case(data)
    requests = {"ours": decoding(v8, serving), "pass": passing(v8), "OpenCV": opencv_v8(v8, serving)}
    times = medians(requests)
    name = f"yolo_v8 [84,8400] at 0.25{_kind(v8)}"
    rows.append(Row(name, times["ours"] * 1e6, unit="us"))
    rows.append(Row(f"{name}, to pass", times["ours"] / times["pass"], 1.3))
    rows.append(Row(f"{name}, to OpenCV", times["ours"] / times["OpenCV"], 0.7))
    times = medians({"ours": decoding(v8, validation), "OpenCV": opencv_v8(v8, validation)})
    name = f"yolo_v8 [84,8400] at 0.001, several labels{_kind(v8)}"
    rows.append(Row(f"{name}, to OpenCV", times["ours"] / times["OpenCV"], 0.35))
    for name, case, confidence, target in (
        ("yolo_anchor 608 (76, 38, 19) at 0.25", anchor_case(), 0.25, 0.3),
        ("yolox [3549,85] at 0.25", x_case(data), 0.25, 0.5),
        ("yolo_v5 [25200,85] at 0.25", v5_case(), 0.25, 0.5),
        ("ssd [1917,91] at 0.3", ssd_case(data), 0.3, 1.3),
        *((f"{name} at 0.25", make(), 0.25, target) for name, (make, target) in SYNTHETIC.items()),
    ):
        times = medians({"ours": decoding(case, Thresholds(confidence=confidence)), "pass": passing(case)})
        rows.append(Row(f"{name}{_kind(case)}", times["ours"] * 1e6, unit="us"))
        rows.append(Row(f"{name}{_kind(case)}, to pass", times["ours"] / times["pass"], target))
    return rows


def _kind(case: Case) -> str:
    return "" if case.real else " (synthetic)"


def heavy(n: int) -> Boxes:
    """About 300 objects, each seen by many anchors."""
    rng = np.random.default_rng(n)
    centers = rng.random((300, 2)) * 640
    middle = centers[rng.integers(0, 300, n)] + rng.normal(0, 2, (n, 2))
    size = 40 + rng.normal(0, 2, (n, 2))
    return _boxes(np.concatenate([middle - size / 2, middle + size / 2], 1), rng)


def apart(n: int) -> Boxes:
    """Boxes in a lattice, none of which touch."""
    place = np.arange(n)
    corner = np.stack([place % 300 * 12, place // 300 * 12], 1)
    return _boxes(np.concatenate([corner, corner + 10], 1), np.random.default_rng(n))


def _boxes(boxes: FloatArray, rng: np.random.Generator) -> Boxes:
    n = len(boxes)
    return boxes.astype(np.float32), rng.random(n).astype(np.float32), np.zeros(n, np.int32)


def suppressing(found: Boxes) -> Callable[[], object]:
    """Our NMS."""
    return lambda: nms(*found, iou=0.45)


def suppressing_opencv(found: Boxes) -> Callable[[], object]:
    """OpenCV's NMS, which takes corners and sizes."""
    boxes, scores, ids = found
    sized = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    return lambda: OPENCV_NMS(sized, scores, ids, 0.0, 0.45)


def nms_rows() -> list[Row]:
    """Time NMS without decoding, of one class."""
    rows = []
    for name, make in (("heavy overlap", heavy), ("no overlap", apart)):
        requests = {"ours": suppressing(make(10_000)), "OpenCV": suppressing_opencv(make(10_000))}
        times = medians(requests, least=5)
        rows.append(Row(f"nms 10000, {name}, to OpenCV", times["ours"] / times["OpenCV"], 0.2))
    for name, make in (("heavy overlap", heavy), ("no overlap", apart)):
        times = medians({str(n): suppressing(make(n)) for n in (1_000, 10_000, 100_000)})
        rows += [Row(f"nms {n}, {name}", seconds * 1e3, unit="ms") for n, seconds in times.items()]
        rows.append(Row(f"nms, {name}, growth from 1000 to 100000", times["100000"] / times["1000"]))
    return rows


def frames_a_second(call: Callable[[], object], threads: int, seconds: float) -> float:
    """Count the calls that a number of threads make together."""
    counts = [0] * threads
    ready = threading.Barrier(threads + 1)
    end = [0.0]

    def work(index: int) -> None:
        ready.wait()
        while time.perf_counter() < end[0]:
            for _ in range(20):
                call()
            counts[index] += 20

    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    begin = time.perf_counter()
    end[0] = begin + seconds
    ready.wait()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - begin)


def thread_rows(data: Path | None) -> list[Row]:
    """Two threads against one, in turns, at decoding for serving and for validation."""
    v8 = v8_case(data)
    validation = Thresholds(confidence=0.001, iou=0.65, multi_label=True)
    rows = []
    for name, thresholds in (("0.25", Thresholds()), ("0.001, several labels", validation)):
        call = decoding(v8, thresholds)
        rounds = [[frames_a_second(call, n, 0.15) for n in (1, 2)] for _ in range(25)]
        ratio = np.median([two / one for one, two in rounds])
        rows.append(Row(f"yolo_v8 at {name}, two threads to one", ratio, 1.8, "higher"))
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("QZD_DATA", "../shared/data")))
    options = parser.parse_args()
    data = options.data if options.data.is_dir() else None
    report([*decode_rows(data), *nms_rows(), *thread_rows(data)], options.json)


if __name__ == "__main__":
    main()
