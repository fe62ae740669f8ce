"""How the daemon grows with its cameras: CPU, memory, latency and dropped frames of 1 to 64 of them.

A camera is an H.264 file of 5 frames per second that is played at its own speed. Each camera costs the same
until the cores are full; then every camera loses alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from camera import Bench, configuration, played, prepare, write_camera
from programs import cpu_seconds, daemon, resident_bytes
from report import Row, report

from qzd_client.events import Detections
from qzd_client.subscriber import Client

FPS = 5
SIZES = {"640x360": (640, 360), "1080p": (1920, 1080)}
COUNTS = (1, 2, 4, 8, 16, 32, 64)
FULL = 0.85  # of the cores: with more, cameras wait for each other
WARM_UP_SECONDS = 4.0


@dataclass(frozen=True)
class Load:
    """What a number of cameras took, and what came of them."""

    cameras: int
    cores: float
    resident_mb: float
    latencies_ms: list[float]
    frames: list[int]
    """Of each camera, that were looked at."""
    dropped: list[int]
    faults: int

    @property
    def cpu_per_camera(self) -> float:
        """Per cent of a core."""
        return 100 * self.cores / self.cameras


def measure(bench: Bench, video: Path, cameras: int) -> Load:
    """Serve a number of cameras and count what a subscriber receives."""
    frames: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    latencies: list[float] = []
    faults = 0
    names = [f"c{i}" for i in range(cameras)]
    client = Client(f"ipc://{bench.work}/socket", receive_hwm=100000)
    config = configuration(bench, {name: played(video) for name in names})
    with client, daemon(bench.work, config) as process:
        while not isinstance(client.receive(60), Detections):
            pass
        begin = time.monotonic() + WARM_UP_SECONDS
        while time.monotonic() < begin:
            client.receive(1)
        begin, before = time.monotonic(), sum(cpu_seconds(process.pid).values())
        while time.monotonic() < begin + bench.seconds:
            event = client.receive(1)
            if isinstance(event, Detections):
                frames[event.stream] += 1
                dropped[event.stream] += event.dropped_before
                faults += event.outcome != "ok"
                latencies.append((time.time_ns() - event.captured_ns) / 1e6)
        seconds = time.monotonic() - begin
        cores = (sum(cpu_seconds(process.pid).values()) - before) / seconds
        counts = [frames[name] for name in names]
        lost = [dropped[name] for name in names]
        return Load(cameras, cores, resident_bytes(process.pid) / 2**20, latencies, counts, lost, faults)


def jain(shares: list[int]) -> float:
    """Jain's fairness index: 1 when all have the same, 1/n when one has everything."""
    return sum(shares) ** 2 / max(1, len(shares) * sum(s * s for s in shares))


def rows(size: str, loads: list[Load], cores: int) -> list[Row]:
    """List the figures of each load, and what they say together."""
    found = [row for load in loads for row in load_rows(size, load)]
    small = [load for load in loads if load.cores < FULL * cores]
    if len(small) > 1:
        costs = [load.cpu_per_camera for load in small if load.cameras >= 4] or [small[-1].cpu_per_camera]
        found.append(Row(f"{size}: most to least CPU per camera, 4 and more", max(costs) / min(costs), 1.1))
    found.append(
        Row(f"{size}: Jain's index, lowest", min(jain(load.frames) for load in loads), 0.99, "higher")
    )
    found.append(Row(f"{size}: frames that are not ok", sum(load.faults for load in loads), 0, unit=""))
    return found


def load_rows(size: str, load: Load) -> list[Row]:
    """List the figures of one load."""
    name = f"{size}, {load.cameras} cameras"
    p99 = statistics.quantiles(load.latencies_ms, n=100)[98] if len(load.latencies_ms) > 1 else 0.0
    seen, lost = sum(load.frames), sum(load.dropped)
    return [
        Row(f"{name}: CPU per camera", load.cpu_per_camera, unit="%"),
        Row(f"{name}: cores", load.cores, unit=""),
        Row(f"{name}: resident", load.resident_mb, unit="MB"),
        Row(f"{name}: frame to message received, p99", p99, unit="ms"),
        Row(f"{name}: frames dropped", lost / max(1, seen + lost)),
    ]


def main() -> None:
    """Measure, print, and write JSON where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--bundles", type=Path, default=Path("build/bench"), help="made if they do not exist")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run")
    parser.add_argument("--cameras", type=int, action="append", help=f"default: {COUNTS}")
    parser.add_argument("--size", choices=SIZES, action="append")
    given = parser.parse_args()
    data = Path(os.environ.get("QZD_DATA", "../shared/data")).resolve()
    bundle = prepare(given.bundles).resolve()
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="qzd-bench-", dir="/dev/shm") as work:
        bench = Bench(bundle, Path(work), given.seconds, 1)
        source = data / "videos/person-bicycle-car-detection.mp4"
        for size in given.size or SIZES:
            video = write_camera(bench.work / f"{size}.mp4", source, SIZES[size], FPS, 40)
            loads = [measure(bench, video, cameras) for cameras in given.cameras or COUNTS]
            found += rows(size, loads, len(os.sched_getaffinity(0)))
    report(found, given.json)


if __name__ == "__main__":
    main()
