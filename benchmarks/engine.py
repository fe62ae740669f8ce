"""The daemon beside OpenVINO's benchmark_app on the same IR: throughput, latency, fairness, start, memory.

The daemon is a real process that publishes JSON, and this process is its subscriber. Every ratio is of
medians of runs taken in turns.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import openvino as ov
from programs import TOOLS, cpu_seconds, daemon, resident_bytes
from report import Row, report

from qzd_client.subscriber import Client, Detections
from qzd_ext.bundle import MODEL
from qzd_ext.runner import RunOptions
from qzd_tools.benchmark.benchmark_app import run_benchmark_app

APP = (sys.executable, "-c", "import sys; from openvino.tools.benchmark.main import main; sys.exit(main())")
PLAIN_LOOP = (sys.executable, str(Path(__file__).with_name("plain_loop.py")))
MODELS = {"ssd": "ssd_mobilenet_v1_coco.xml", "yolov8n": "yolov8n.onnx"}
DEMO = "demo"  # a model that is faster than everything around it
TARGETS = {"demo": (0.80, 0.30), "ssd": (0.94, 0.86), "yolov8n": (0.98, 0.95)}  # raw frames, H.264 file
WARM_UP_SECONDS = 2.0
RAW_FRAMES = 128  # opening a file costs as much as reading twenty frames
LOAD = 0.5  # of what the model can do, for latency: a machine that slows down is not yet overrun


@dataclass(frozen=True)
class Bench:
    """Where things lie and how long is measured."""

    bundles: Path
    work: Path
    video: Path
    seconds: float
    rounds: int

    def bundle(self, model: str) -> Path:
        """Return a model's INT8 bundle."""
        return self.bundles / ("demo/models/parts-int8" if model == DEMO else f"{model}-int8")


@dataclass(frozen=True)
class Heard:
    """What a subscriber received in a measured time."""

    seconds: float
    frames: Counter[str]
    latencies_ms: list[float]
    """From the moment a frame was there to the moment its message was received."""
    resident_bytes: int
    cpu_seconds: dict[str, float]
    """By the kind of thread."""

    @property
    def rate(self) -> float:
        """Messages per second."""
        return sum(self.frames.values()) / self.seconds

    def cpu_ms(self, *kinds: str) -> float:
        """CPU time per frame, of these kinds of threads or of all."""
        taken = sum(self.cpu_seconds.get(kind, 0.0) for kind in kinds or self.cpu_seconds)
        return taken * 1e3 / max(1, sum(self.frames.values()))


def prepare(data: Path, bundles: Path, models: Iterable[str]) -> None:
    """Make the INT8 bundles that do not exist yet."""
    calibration = str(data / "coco/calibration/instances.json")
    if DEMO in models and not (bundles / DEMO).exists():
        subprocess.run([*TOOLS, "demo", "-o", str(bundles / DEMO)], check=True)
    for name in set(models) & MODELS.keys():
        if not (bundles / f"{name}-int8").exists():
            made, source = str(bundles / name), str(data / "models" / MODELS[name])
            subprocess.run([*TOOLS, "convert", source, "-o", made], check=True)
            command = [*TOOLS, "quantize", made, "--annotations", calibration]
            subprocess.run([*command, "-o", f"{made}-int8"], check=True)


def write_raw(path: Path, video: Path, fps: float) -> Path:
    """Decode the first frames of a video beforehand: reading them costs no more than a copy."""
    with av.open(str(video)) as source, av.open(str(path), "w", format="nut") as sink:
        stream = sink.add_stream("rawvideo", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height = source.streams.video[0].width, source.streams.video[0].height
        stream.pix_fmt = "bgr24"
        for frame in islice(source.decode(video=0), RAW_FRAMES):
            plain = av.VideoFrame.from_ndarray(frame.to_ndarray(format="bgr24"), format="bgr24")
            sink.mux(stream.encode(plain))
        sink.mux(stream.encode(None))
    return path


def configuration(bench: Bench, model: str, streams: dict[str, str], *, model_keys: str = "") -> str:
    """Make a configuration; each stream is given by its keys beside `model`."""
    tables = [f'[streams.{name}]\nmodel = "m"\n{keys}' for name, keys in streams.items()]
    return "\n".join(
        [
            f'[publish]\nbind = ["ipc://{bench.work}/socket"]\nsend_hwm = 100000',
            f'[service]\ncache_dir = "{bench.work}/cache"',
            f'[models.m]\nbundle = "{bench.bundle(model)}"\ndevice = "CPU"\n{model_keys}',
            *tables,
        ]
    )


def looped(source: Path, keys: str = 'when_behind = "wait"') -> str:
    """Return the keys of a stream that reads a file over and over."""
    return f'source = "{source}"\nloop = true\n{keys}'


def listen(bench: Bench, config: str) -> Heard:
    """Start the daemon, let it warm up, and count what a subscriber receives."""
    frames: Counter[str] = Counter()
    latencies: list[float] = []
    client = Client(f"ipc://{bench.work}/socket", receive_hwm=100000)
    with client, daemon(bench.work, config) as process:
        while not isinstance(client.receive(60), Detections):
            pass
        begin = time.monotonic() + WARM_UP_SECONDS
        while time.monotonic() < begin:
            client.receive(1)
        end, before = time.monotonic() + bench.seconds, cpu_seconds(process.pid)
        while time.monotonic() < end:
            event = client.receive(1)
            if isinstance(event, Detections):
                assert event.outcome == "ok", event.reason
                latencies.append((time.time_ns() - event.captured_ns) / 1e6)
                frames[event.stream] += 1
        taken = {kind: t - before.get(kind, 0.0) for kind, t in cpu_seconds(process.pid).items()}
        return Heard(bench.seconds, frames, latencies, resident_bytes(process.pid), taken)


def app(bench: Bench, model: str, hint: str) -> Callable[[], float]:
    """Run benchmark_app once; returns inferences per second, or the median latency in milliseconds."""

    def run() -> float:
        options = RunOptions(hint="latency" if hint == "latency" else "throughput")
        found = run_benchmark_app(bench.bundle(model) / MODEL, options, None, bench.seconds)
        return found.median_ms if hint == "latency" else found.throughput

    return run


def rounds(count: int, *runs: Callable[[], float]) -> list[list[float]]:
    """Return the values of each run, taken in turns, so that what disturbs one disturbs all."""
    taken = [[run() for run in runs] for _ in range(count)]
    return [list(values) for values in zip(*taken, strict=True)]


def in_turns(count: int, *runs: Callable[[], float]) -> list[float]:
    """Return the median of each run, taken in turns."""
    return [statistics.median(values) for values in rounds(count, *runs)]


def plain_loop(bench: Bench, model: str, video: Path) -> tuple[float, float]:
    """Run the plain loop once; returns frames per second, and milliseconds of CPU time per frame."""
    command = [*PLAIN_LOOP, str(bench.bundle(model)), str(video), str(bench.seconds)]
    rate, cpu_ms = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(rate), float(cpu_ms)


def throughput_rows(bench: Bench, model: str, raw_target: float, h264_target: float) -> list[Row]:
    """Compare the frames per second at a subscriber with benchmark_app's and the plain loop's."""
    raw = write_raw(bench.work / "raw.nut", bench.video, 25)
    four = configuration(bench, model, {f"s{i}": looped(raw) for i in range(4)})
    file = configuration(bench, model, {"s": looped(bench.video)})
    plain: list[float] = []
    heard: list[Heard] = []

    def bound() -> float:
        rate, cpu_ms = plain_loop(bench, model, raw)
        plain.append(cpu_ms)
        return rate

    def serve_raw() -> float:
        heard.append(listen(bench, four))
        return heard[-1].rate

    theirs, loop, ours, h264 = rounds(
        bench.rounds,
        app(bench, model, "throughput"),
        bound,
        serve_raw,
        lambda: listen(bench, file).rate,
    )
    return [
        Row(f"{model}: benchmark_app -hint throughput", statistics.median(theirs), unit="fps"),
        *ratio_rows(f"{model}: plain loop, to benchmark_app", loop, theirs, None),
        *ratio_rows(f"{model}: 4 streams of raw frames, to benchmark_app", ours, theirs, raw_target),
        *ratio_rows(f"{model}: 4 streams of raw frames, to the plain loop", ours, loop, 0.95),
        *ratio_rows(f"{model}: H.264 file, to benchmark_app", h264, theirs, h264_target),
        *cpu_rows(f"{model}: CPU time per frame", plain, heard),
    ]


def cpu_rows(name: str, plain: list[float], heard: list[Heard]) -> list[Row]:
    """Where the time of a frame goes: figures that other programs on the machine hardly change."""
    parts = {
        "inference": ("python", "python3", "qzd"),
        "reading and decoding": ("stream",),
        "resizing and starting": ("start",),
        "results and messages": ("finish",),
        "ZeroMQ": ("ZMQbg/IO/0",),
    }
    whole = statistics.median(one.cpu_ms() for one in heard)
    return [
        Row(f"{name}, plain loop", statistics.median(plain), unit="ms"),
        Row(f"{name}, daemon", whole, unit="ms"),
        *(
            Row(f"{name}, {part}", statistics.median(one.cpu_ms(*kinds) for one in heard), unit="ms")
            for part, kinds in parts.items()
        ),
        Row(f"{name}, daemon to plain loop", whole / statistics.median(plain), 1.05),
    ]


def ratio_rows(name: str, ours: list[float], theirs: list[float], target: float | None) -> list[Row]:
    """Return the ratio of medians, and how far the ratios of single rounds lie apart."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    ratio = statistics.median(ours) / statistics.median(theirs)
    return [
        Row(name, ratio, target, "higher"),
        Row(f"{name}, spread of the rounds", max(ratios) - min(ratios)),
    ]


def paced(bench: Bench, model: str, raw: Path, fps: float) -> float:
    """Median milliseconds to resize and infer, frames coming at a rate: one thread, and nothing of qzd.

    A processor that sleeps between frames begins each with cold caches and a slow clock, which
    benchmark_app, that never sleeps, does not show.
    """
    with av.open(str(raw)) as source:
        frames = [frame.to_ndarray(format="bgr24") for frame in source.decode(video=0)]
    compiled = ov.Core().compile_model(bench.bundle(model) / MODEL, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    request = compiled.create_infer_request()
    canvas = request.get_input_tensor().data[0]
    took = []
    begin = time.monotonic()
    for number in range(int(fps * bench.seconds)):
        time.sleep(max(0.0, begin + number / fps - time.monotonic()))
        ready = time.perf_counter()
        cv2.resize(frames[number % len(frames)], canvas.shape[1::-1], dst=canvas)
        request.infer()
        took.append((time.perf_counter() - ready) * 1e3)
    return statistics.median(took)


def latency_rows(bench: Bench) -> list[Row]:
    """One stream with the latency hint at a part of its load: from frame ready to message received."""
    fps = LOAD * 1000 / app(bench, "ssd", "latency")()
    raw = write_raw(bench.work / "paced.nut", bench.video, fps)
    config = configuration(
        bench, "ssd", {"s": looped(raw, 'when_behind = "drop"')}, model_keys='hint = "latency"'
    )
    heard: list[float] = []

    def listen_once() -> float:
        heard.extend(listen(bench, config).latencies_ms)
        return statistics.median(heard)

    theirs, _, bare = in_turns(
        bench.rounds,
        app(bench, "ssd", "latency"),
        listen_once,
        lambda: paced(bench, "ssd", raw, fps),
    )
    p50, p99 = statistics.median(heard), statistics.quantiles(heard, n=100)[98]
    return [
        Row("ssd: benchmark_app -hint latency, median", theirs, unit="ms"),
        Row("ssd: frame ready to message received, p50 beyond that", p50 - theirs, 1.5, unit="ms"),
        Row("ssd: resize and model only, frames at the same pace, beyond that", bare - theirs, unit="ms"),
        Row("ssd: frame ready to message received, p99 to p50", p99 / p50, 2.0),
    ]


def fairness_rows(bench: Bench) -> list[Row]:
    """Many streams of one model: the same total, the same share, and no starving."""
    raw = write_raw(bench.work / "raw.nut", bench.video, 25)
    counts = (1, 4, 16, 32)
    configs = [configuration(bench, "ssd", {f"s{i}": looped(raw) for i in range(n)}) for n in counts]
    shares: list[float] = []

    def rate(config: str) -> Callable[[], float]:
        def run() -> float:
            heard = listen(bench, config)
            shares.append(jain(list(heard.frames.values())))
            return heard.rate

        return run

    rates = in_turns(bench.rounds, *(rate(config) for config in configs))
    fast = {f"s{i}": looped(raw) for i in range(4)}
    slow = looped(write_raw(bench.work / "slow.nut", bench.video, 5), 'when_behind = "drop"')
    heard = listen(bench, configuration(bench, "ssd", {**fast, "slow": slow}))
    rows = [Row(f"ssd: {n} streams", r, unit="fps") for n, r in zip(counts, rates, strict=True)]
    return [
        *rows,
        Row("ssd: 1, 4, 16, 32 streams, slowest to fastest total", min(rates) / max(rates), 0.95, "higher"),
        Row("ssd: Jain's index of equal streams, lowest", min(shares), 0.99, "higher"),
        Row(
            "ssd: frames of a 5 fps camera among fast ones",
            heard.frames["slow"] / heard.seconds / 5,
            0.95,
            "higher",
        ),
    ]


def jain(shares: list[int]) -> float:
    """Jain's fairness index: 1 when all have the same, 1/n when one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(s * s for s in shares))


def start_rows(bench: Bench) -> list[Row]:
    """From the start of the process to READY with a warm cache; memory beside benchmark_app's."""
    raw = write_raw(bench.work / "raw.nut", bench.video, 25)
    config = configuration(bench, "ssd", {f"s{i}": looped(raw) for i in range(4)})
    heard = listen(bench, config)  # and the cache is warm
    seconds = [time_to_ready(bench, config) for _ in range(bench.rounds + 2)]
    beyond = (heard.resident_bytes - app_resident(bench)) / 2**20
    return [
        Row("ssd: start to READY, warm cache", statistics.median(seconds), 1.5, unit="s"),
        Row("ssd: resident beyond benchmark_app's", beyond, 80, unit="MB"),
    ]


def time_to_ready(bench: Bench, config: str) -> float:
    """Until it tells systemd that it is ready: a subscriber would add what it waits between its attempts."""
    address = bench.work / "notify"
    address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(60)
        begin = time.monotonic()
        with daemon(bench.work, config, NOTIFY_SOCKET=str(address)):
            while b"READY=1" not in systemd.recv(4096):
                pass
            return time.monotonic() - begin


def app_resident(bench: Bench) -> int:
    """VmRSS of benchmark_app in the middle of its run."""
    command = [*APP, "-m", str(bench.bundle("ssd") / MODEL), "-d", "CPU", "-hint", "throughput", "-t", "6"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    time.sleep(5)
    found = resident_bytes(process.pid)
    process.wait()
    return found


def main() -> None:
    """Measure, print, and write JSON where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--bundles", type=Path, default=Path("build/bench"), help="where the INT8 bundles are, or are made"
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", choices=TARGETS, action="append", help="of the throughput")
    parser.add_argument("--only", choices=("throughput", "latency", "fairness", "start"), action="append")
    given = parser.parse_args()
    data = Path(os.environ.get("QZD_DATA", "../shared/data")).resolve()
    cv2.setNumThreads(1)  # as the daemon has it
    models = given.model or [DEMO, *MODELS]
    prepare(data, given.bundles, {*models, "ssd"})
    with tempfile.TemporaryDirectory(prefix="qzd-bench-", dir="/dev/shm") as work:
        video = data / "videos/person-bicycle-car-detection.mp4"
        bench = Bench(given.bundles.resolve(), Path(work), video, given.seconds, given.rounds)
        groups: dict[str, Callable[[], list[Row]]] = {
            "throughput": lambda: [
                row for model in models for row in throughput_rows(bench, model, *TARGETS[model])
            ],
            "latency": lambda: latency_rows(bench),
            "fairness": lambda: fairness_rows(bench),
            "start": lambda: start_rows(bench),
        }
        rows = [row for name in given.only or groups for row in groups[name]()]
    report(rows, given.json)


if __name__ == "__main__":
    main()
