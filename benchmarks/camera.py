"""What a live camera costs: CPU beside its bare decoding, memory, and a daemon that has nothing to do.

The camera is an H.264 file that is played at its own speed. Ratios are of CPU time in runs taken in turns, so
other programs on the machine hardly change them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path

import av
from programs import TOOLS, cpu_seconds, daemon, resident_bytes, switches
from report import Row, report

from qzd_client.events import Detections
from qzd_client.subscriber import Client

WARM_UP_SECONDS = 2.0
FPS = 25
MANY = 8  # cameras, for the memory of one
DECODE_ALONE = """
import sys, time
import av
path, fps, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
frames, begin, spent = 0, time.monotonic(), time.process_time()
while time.monotonic() - begin < seconds:
    with av.open(path) as container:
        for _ in container.decode(video=0):
            frames += 1
            time.sleep(max(0.0, begin + frames / fps - time.monotonic()))
            if time.monotonic() - begin > seconds:
                break
print((time.process_time() - spent) * 1e3 / frames)
"""


@dataclass(frozen=True)
class Bench:
    """Where things lie and how long is measured."""

    bundle: Path
    work: Path
    seconds: float
    rounds: int


def prepare(bundles: Path) -> Path:
    """Make the demo's INT8 bundle if it does not exist: a model that costs next to nothing."""
    bundle = bundles / "demo/models/parts-int8"
    if not bundle.exists():
        subprocess.run([*TOOLS, "demo", "-o", str(bundles / "demo")], check=True)
    return bundle


def write_camera(path: Path, video: Path, size: tuple[int, int], fps: int, seconds: float) -> Path:
    """Encode a video as cameras do: H.264 without B-frames, a key frame every two seconds."""
    with av.open(str(video)) as source:
        pictures = [frame.reformat(*size, format="yuv420p") for frame in islice(source.decode(video=0), 100)]
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.options = {"preset": "veryfast", "tune": "zerolatency", "g": str(2 * fps), "bf": "0"}
        for number, picture in enumerate(islice(cycle(pictures), int(fps * seconds))):
            picture.pts, picture.time_base = number, Fraction(1, fps)
            sink.mux(stream.encode(picture))
        sink.mux(stream.encode(None))
    return path


def configuration(bench: Bench, cameras: dict[str, str]) -> str:
    """Return a configuration; each stream is given by its keys beside `model`."""
    streams = [f'[streams.{name}]\nmodel = "m"\n{keys}' for name, keys in cameras.items()]
    return "\n".join(
        [
            f'[publish]\nbind = ["ipc://{bench.work}/socket"]\nsend_hwm = 100000',
            f'[service]\ncache_dir = "{bench.work}/cache"',
            f'[models.m]\nbundle = "{bench.bundle}"\ndevice = "CPU"',
            *streams,
        ]
    )


def played(video: Path, keys: str = "") -> str:
    """Return the keys of a stream that plays a file over and over, as a camera sends."""
    return f'source = "{video}"\nloop = true\nwhen_behind = "drop"\n{keys}'


def wait_for_frames(bench: Bench) -> None:
    """Wait until the daemon serves, and then until it is warm."""
    with Client(f"ipc://{bench.work}/socket") as client:
        while not isinstance(client.receive(60), Detections):
            pass
    time.sleep(WARM_UP_SECONDS)


def serve(bench: Bench, cameras: dict[str, str]) -> tuple[float, int]:
    """Return the CPU seconds per second of a daemon with these cameras, and its resident bytes."""
    with daemon(bench.work, configuration(bench, cameras)) as process:
        wait_for_frames(bench)
        before, begin = sum(cpu_seconds(process.pid).values()), time.monotonic()
        time.sleep(bench.seconds)
        taken = sum(cpu_seconds(process.pid).values()) - before
        return taken / (time.monotonic() - begin), resident_bytes(process.pid)


def looked_at_rows(bench: Bench, video: Path) -> list[Row]:
    """Measure a 1080p camera of which one picture per second is looked at, beside its bare decoding."""
    command = [sys.executable, "-c", DECODE_ALONE, str(video), str(FPS), str(bench.seconds)]
    camera = {"gate": played(video, "max_fps = 1")}
    alone, served = [], []
    for _ in range(bench.rounds):
        alone.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        served.append(serve(bench, camera)[0] * 1e3 / FPS)
    ratios = [one / other for one, other in zip(served, alone, strict=True)]
    name = "1080p25 H.264, 1 frame per second looked at"
    return [
        Row("1080p25 H.264, bare decoding: CPU per frame", statistics.median(alone), unit="ms"),
        Row(f"{name}: CPU per frame", statistics.median(served), unit="ms"),
        Row(f"{name}: CPU to bare decoding", statistics.median(ratios), 1.15),
        Row(f"{name}: spread of the rounds", max(ratios) - min(ratios)),
    ]


def memory_rows(bench: Bench, video: Path) -> list[Row]:
    """Measure what each further camera adds to the memory of the daemon."""
    _, one = serve(bench, {"c0": played(video, "max_fps = 1")})
    _, many = serve(bench, {f"c{i}": played(video, "max_fps = 1") for i in range(MANY)})
    return [Row("1080p H.264: resident per camera", (many - one) / (MANY - 1) / 2**20, 20, unit="MB")]


def idle_rows(bench: Bench) -> list[Row]:
    """Measure a daemon with a model and no stream."""
    with daemon(bench.work, configuration(bench, {})) as process:
        time.sleep(5 + WARM_UP_SECONDS)  # for the model
        cpu, count, begin = sum(cpu_seconds(process.pid).values()), switches(process.pid), time.monotonic()
        time.sleep(3 * bench.seconds)
        seconds = time.monotonic() - begin
        cpu = sum(cpu_seconds(process.pid).values()) - cpu
        count = switches(process.pid) - count
    return [
        Row("idle: CPU", 100 * cpu / seconds, 0.3, unit="%"),
        Row("idle: context switches per second", count / seconds, 10, unit="/s"),
    ]


def main() -> None:
    """Measure, print, and write JSON where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--bundles", type=Path, default=Path("build/bench"), help="made if they do not exist")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("looked-at", "memory", "idle"), action="append")
    given = parser.parse_args()
    data = Path(os.environ.get("QZD_DATA", "../shared/data")).resolve()
    bundle = prepare(given.bundles).resolve()
    with tempfile.TemporaryDirectory(prefix="qzd-bench-", dir="/dev/shm") as work:
        bench = Bench(bundle, Path(work), given.seconds, given.rounds)
        source = data / "videos/person-bicycle-car-detection.mp4"
        video = write_camera(bench.work / "camera.mp4", source, (1920, 1080), FPS, 20)
        groups: dict[str, Callable[[], list[Row]]] = {
            "looked-at": lambda: looked_at_rows(bench, video),
            "memory": lambda: memory_rows(bench, video),
            "idle": lambda: idle_rows(bench),
        }
        rows = [row for name in given.only or groups for row in groups[name]()]
    report(rows, given.json)


if __name__ == "__main__":
    main()
