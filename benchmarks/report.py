"""The one form in which every benchmark reports: a table for people, JSON for machines."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

__all__ = ["Row", "machine", "medians", "report"]

VERSIONS = ("qzd", "openvino", "numpy", "opencv-python-headless")
INSTRUCTION_SETS = ("sse4_2", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd")


@dataclass(frozen=True)
class Row:
    """One figure beside its target; without a target it is only shown."""

    name: str
    value: float
    target: float | None = None
    better: Literal["lower", "higher"] = "lower"
    unit: str = "ratio"

    @property
    def ok(self) -> bool:
        """The target is met, or there is none."""
        if self.target is None:
            return True
        return bool(self.value <= self.target if self.better == "lower" else self.value >= self.target)


def medians(
    requests: dict[str, Callable[[], object]], seconds: float = 2.0, least: int = 30
) -> dict[str, float]:
    """Median seconds of each call, taken in turns, so that what disturbs one disturbs all."""
    taken: dict[str, list[float]] = {name: [] for name in requests}
    for call in requests.values():
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(taken.values()))) < least:
        for name, call in requests.items():
            begin = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in taken.items()}


def machine() -> dict[str, object]:
    """Describe the machine that the figures were measured on."""
    flags: set[str] = set()
    cpu = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags |= set(value.split())
        elif key.strip() == "model name":
            cpu = value.strip()
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "versions": {"python": platform.python_version()} | {name: version(name) for name in VERSIONS},
    }


def report(rows: Sequence[Row], destination: Path | None = None) -> None:
    """Print the rows; write them with the machine to `destination` where one is given."""
    here = machine()
    print(f"{here['cpu']}, {here['cores']} cores, load {here['load']}")
    width = max(len(row.name) for row in rows)
    for row in rows:
        sign = "<=" if row.better == "lower" else ">="
        target = "" if row.target is None else f"{sign} {row.target:<6g} {'ok' if row.ok else 'MISSED'}"
        print(f"{row.name:<{width}}  {row.value:9.4g} {row.unit:<6} {target}".rstrip())
    if destination is not None:
        results = [asdict(row) | {"value": float(row.value), "ok": row.ok} for row in rows]
        destination.write_text(json.dumps({"machine": here, "results": results}, indent=2) + "\n")
