"""What a bundle costs to load, measured in processes of their own: time cold and from cache, and memory.

`footprint` starts a child twice; this module is also what the child runs. A process that has loaded
other models would find warm plugins and add their memory to the figure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from qzd_ext import bundle as bundles
from qzd_ext.detector import Detector
from qzd_ext.errors import DeviceError, QzdError
from qzd_ext.runner import RunOptions

__all__ = ["Footprint", "footprint"]

INFERENCES = 20
"""After loading, so that memory that is allocated late is counted."""


class Footprint(Struct, frozen=True, kw_only=True):
    """What loading a bundle costs.

    Times are milliseconds, memory is megabytes (10^6 bytes) resident at most.
    """

    cold_ms: float
    """Without a compile cache."""
    cached_ms: float
    """With what the first load left in it."""
    first_inference_ms: float
    peak_mb: float
    """Of the whole process, from an empty start, with as many requests as it serves with."""
    before_mb: float
    """Of the same process before the model was loaded: Python, OpenVINO, OpenCV."""


class _Loaded(Struct, frozen=True, kw_only=True):
    """What one child measured."""

    load_ms: float
    first_inference_ms: float
    peak_mb: float
    before_mb: float


def footprint(path: Path, options: RunOptions) -> Footprint:
    """Load a bundle twice, each time in a new process: with an empty cache, and with the one that it left.

    Raises
    ------
    QzdError
        The bundle cannot be loaded; the message is the child's.
    """
    with tempfile.TemporaryDirectory(prefix="qzd-cache-") as cache:
        cold, cached = (_load_in_child(path, options, Path(cache)) for _ in range(2))
    return Footprint(
        cold_ms=cold.load_ms,
        cached_ms=cached.load_ms,
        first_inference_ms=cold.first_inference_ms,
        peak_mb=cold.peak_mb,
        before_mb=cold.before_mb,
    )


def _load_in_child(path: Path, options: RunOptions, cache: Path) -> _Loaded:
    asked = {"device": options.device, "hint": options.hint, "requests": options.requests}
    asked |= {"threads": options.threads, "precision": options.precision}
    words = [str(path), json.dumps(asked), str(cache)]
    paths = os.pathsep.join(p for p in sys.path if p)
    child = subprocess.run(
        [sys.executable, "-m", __spec__.name, *words],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    if child.returncode != 0:
        raise DeviceError(f"{path}: a new process could not load it: {child.stderr.strip()[-500:]}")
    return msgspec.json.decode(child.stdout.splitlines()[-1], type=_Loaded)


def _measure(path: Path, options: RunOptions) -> _Loaded:
    bundle = bundles.read(path)
    spec = bundle.manifest.input
    frame = np.zeros((spec.height, spec.width, 3), np.uint8)
    before = _peak_mb()
    begin = time.perf_counter()
    with Detector(bundle, options) as detector:
        loaded = time.perf_counter()
        detector.detect(frame)
        first = time.perf_counter()
        for _ in range(max(INFERENCES, detector.requests)):
            detector.submit(frame, _ignore)
        detector.drain()
    return _Loaded(
        load_ms=(loaded - begin) * 1e3,
        first_inference_ms=(first - loaded) * 1e3,
        peak_mb=_peak_mb(),
        before_mb=before,
    )


def _ignore(_: object) -> None:
    """Results are not wanted here."""


def _peak_mb() -> float:
    """Read that of this process only: getrusage would still count what its parent had when it was forked."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024 / 1e6


def _child(words: list[str]) -> int:
    path, asked, cache = words
    try:
        loaded = _measure(Path(path), RunOptions(**json.loads(asked), cache_dir=Path(cache)))
    except QzdError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(msgspec.json.encode(loaded).decode())
    return 0


if __name__ == "__main__":
    sys.exit(_child(sys.argv[1:]))
