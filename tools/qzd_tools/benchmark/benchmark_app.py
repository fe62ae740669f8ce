"""OpenVINO's own benchmark_app beside ours: the same model, device, hint and threads, in its own process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from msgspec import Struct

from qzd_ext.errors import ResourceError
from qzd_ext.runner import RunOptions

__all__ = ["AppResult", "run_benchmark_app"]

START = "import sys; from openvino.tools.benchmark.main import main; sys.exit(main())"
THROUGHPUT = re.compile(r"Throughput:\s+([\d.]+) FPS")
MEDIAN = re.compile(r"Median:\s+([\d.]+) (ms|us)")


class AppResult(Struct, frozen=True):
    """What benchmark_app says: inferences per second, and the median latency in milliseconds."""

    throughput: float
    median_ms: float


def run_benchmark_app(
    model: Path, options: RunOptions, threads: int | None, seconds: float, precision: str = ""
) -> AppResult:
    """Run it once.

    Parameters
    ----------
    model : Path
        model.xml.
    options : RunOptions
        Device, hint and requests.
    threads : int or None
        CPU threads, as our own run really had them.
    seconds : float
        It measures whole seconds, at least one.
    precision : str
        f32, f16 or bf16, as our own run really had it; its own choice if empty.

    Raises
    ------
    ResourceError
        It failed; the message has its last lines.
    """
    words = ["-m", str(model), "-d", options.device, "-hint", options.hint, "-t", str(max(round(seconds), 1))]
    if options.requests:
        words += ["-nireq", str(options.requests)]
    if precision:
        words += ["-infer_precision", precision]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as config:
        if threads and options.device == "CPU":
            json.dump({"CPU": {"INFERENCE_NUM_THREADS": str(threads)}}, config)
            config.flush()
            words += ["-load_config", config.name]
        ran = subprocess.run(
            [sys.executable, "-c", START, *words],
            capture_output=True, text=True, check=False, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    rate, median = THROUGHPUT.search(ran.stdout), MEDIAN.search(ran.stdout)
    if ran.returncode != 0 or rate is None or median is None:
        lines = (ran.stdout + ran.stderr).strip().splitlines()
        raise ResourceError(
            f"benchmark_app failed with {model}: {' | '.join(lines[-3:])}", fix="leave --compare out"
        )
    return AppResult(float(rate[1]), float(median[1]) / (1000 if median[2] == "us" else 1))
