"""What publishing costs: small messages a second, a hundred subscribers, and the time on the wire.

Daemon, subscribers and publisher are processes of their own. What others do to the engine is the median of
windows taken in turns, in one run of one daemon. A hundred subscribers on the daemon's own machine take CPU
time for themselves as well; frames a CPU second of the daemon leave that out.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import zmq
from report import Row, report

from qzd_daemon import wire
from qzd_daemon.caller import Caller
from qzd_daemon.client import Client, Detections, Gap, StreamState
from qzd_daemon.config import PublishConfig
from qzd_daemon.door import Door
from qzd_daemon.publisher import Publisher

QZD = (sys.executable, "-c", "from qzd_daemon.cli import main; main()")
TOOLS = (sys.executable, "-c", "from qzd_tools.cli import main; main()")
MODEL = "models/ssd_mobilenet_v1_coco.xml"
VIDEO = "videos/person-bicycle-car-detection.mp4"
MANY = 10**6
MESSAGES = 300_000
STEADY, STALLED, RESTLESS = 80, 10, 10
LOOK_MS = 20
LOAD = 0.7

CONFIG = """
[publish]
bind = ["ipc://{work}/detections"]
[control]
bind = ["ipc://{work}/control"]
[models.ssd]
bundle = "{bundle}"
device = "CPU"
[streams.video]
source = "{video}"
model = "ssd"
loop = true
{keys}
"""


def publish_small(endpoint: str) -> None:
    """A process of its own: the daemon's publisher, with the smallest message there is."""
    door = Door()
    publisher = Publisher(PublishConfig(bind=(endpoint,), send_hwm=MANY, linger_ms=20_000), door)
    door.start()
    publisher.start()
    publisher.wait_for_subscriptions(1, 60)
    message, topic = wire.StreamState(stream="gate", state="running"), wire.stream_topic("gate")
    for _ in range(MESSAGES):
        publisher.publish(topic, message)
    publisher.close()
    door.close()


def rate_rows(work: Path) -> list[Row]:
    """How many messages a second one subscriber receives and understands, and how many it lost."""
    rates, lost = [], 0
    for _ in range(3):
        endpoint = f"ipc://{work}/small"
        with Client(endpoint, receive_hwm=MANY) as client, child("publish_small", endpoint):
            received, begin = 0, 0.0
            while received + lost < MESSAGES:
                event = client.receive(30)
                begin = begin or time.perf_counter()
                received += isinstance(event, StreamState)
                lost += event.lost if isinstance(event, Gap) else 0
            rates.append(received / (time.perf_counter() - begin))
    return [
        Row("small messages to one subscriber", max(rates), 50_000, "higher", "1/s"),
        Row("of these lost", lost, 0, unit="1"),
    ]


@contextmanager
def child(function: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A function of this file in another process."""
    process = subprocess.Popen([sys.executable, __file__, "--child", function, *arguments])
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def subscribe_many(endpoint: str) -> None:
    """A process of its own: some read all, some never, some come and go. All at once, until it is ended."""
    context = zmq.Context(io_threads=1)
    context.set(zmq.MAX_SOCKETS, 4096)
    steady = [subscriber(context, endpoint) for _ in range(STEADY)]
    stalled = [subscriber(context, endpoint, hwm=1) for _ in range(STALLED)]
    restless = [subscriber(context, endpoint) for _ in range(RESTLESS)]
    chance = random.Random(1)  # noqa: S311 - it is no secret
    leaves = [time.monotonic() + chance.random() for _ in restless]
    while len(stalled) == STALLED:
        for one in steady + restless:
            drain(one)
        for i, at in enumerate(leaves):
            if at <= time.monotonic():
                restless[i].close(linger=0)
                restless[i] = subscriber(context, endpoint)
                leaves[i] = time.monotonic() + chance.uniform(0.5, 1.5)
        time.sleep(LOOK_MS / 1e3)


def subscriber(context: zmq.Context[zmq.Socket[bytes]], endpoint: str, hwm: int = 1000) -> zmq.Socket[bytes]:
    """A plain SUB socket for everything."""
    one = context.socket(zmq.SUB)
    one.setsockopt(zmq.RCVHWM, hwm)
    one.subscribe(wire.PREFIX)
    one.connect(endpoint)
    return one


def drain(one: zmq.Socket[bytes]) -> None:
    """Read what is there."""
    try:
        while True:
            one.recv(zmq.NOBLOCK)
    except zmq.Again:
        return


@contextmanager
def daemon(work: Path, data: Path, keys: str) -> Iterator[subprocess.Popen[bytes]]:
    """A qzd process that serves; stopped and awaited at the end."""
    path = work / "qzd.toml"
    path.write_text(CONFIG.format(work=work, bundle=work / "bundle", video=data / VIDEO, keys=keys))
    process = subprocess.Popen([*QZD, "--config", str(path), "--log-level", "warning"])
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def frames_published(caller: Caller) -> int:
    """Of the stream, so far."""
    return int(caller.call("status")["published"].get(wire.detections_topic("video", "ssd"), 0))


@dataclass(frozen=True)
class Window:
    """What the engine did in a measured time."""

    fps: float
    cpu_fps: float
    """Frames for each second that the daemon ran on a CPU, which does not depend on what else runs."""


def measure(caller: Caller, pid: int, seconds: float) -> Window:
    """Let it run so long."""
    before, cpu, begin = frames_published(caller), cpu_seconds(pid), time.perf_counter()
    time.sleep(seconds)
    frames = frames_published(caller) - before
    return Window(frames / (time.perf_counter() - begin), frames / (cpu_seconds(pid) - cpu))


def cpu_seconds(pid: int) -> float:
    """What a process has spent on CPUs, in user and kernel mode, as proc(5) has it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def crowd_rows(work: Path, data: Path, seconds: float, rounds: int) -> tuple[list[Row], float]:
    """What the engine does with a hundred subscribers, to what it does with one; and the latter."""
    endpoint = f"ipc://{work}/detections"
    alone: list[Window] = []
    crowded: list[Window] = []
    resident = []
    with daemon(work, data, 'when_behind = "wait"') as process, Caller(f"ipc://{work}/control") as caller:
        while not caller.call("ping") or not frames_published(caller):
            time.sleep(0.1)
        for _ in range(rounds):
            with child("subscribe_one", endpoint):
                time.sleep(2)
                alone.append(measure(caller, process.pid, seconds))
            with child("subscribe_many", endpoint):
                time.sleep(2)
                crowded.append(measure(caller, process.pid, seconds))
                resident.append(resident_bytes(process.pid))
    pairs = list(zip(crowded, alone, strict=True))
    fps = statistics.median(one.fps for one in alone)
    growth = (resident[-1] - resident[1]) / 2**20  # by the second, all that is kept for the stalled is there
    return [
        Row("engine, one subscriber", fps, unit="fps"),
        Row(
            "engine's frames a CPU second, 100 subscribers to one",
            statistics.median(many.cpu_fps / one.cpu_fps for many, one in pairs),
            0.95,
            "higher",
        ),
        Row(
            "engine's frames a second, the 100 on the same CPUs",
            statistics.median(many.fps / one.fps for many, one in pairs),
            0.95,
            "higher",
        ),
        Row("growth of memory from the second window of 100 to the last", growth, 4.0, unit="MB"),
    ], fps


def subscribe_one(endpoint: str) -> None:
    """A process of its own: one subscriber that reads all."""
    with zmq.Context() as context:
        one = subscriber(context, endpoint)
        while one.poll():
            drain(one)


def latency_rows(work: Path, data: Path, fps: float, seconds: float) -> list[Row]:
    """From the end of decoding to the message's arrival, at a part of the load that the engine can bear."""
    late: list[float] = []
    keys = f'when_behind = "wait"\nmax_fps = {fps * LOAD:.1f}'
    with daemon(work, data, keys), Client(f"ipc://{work}/detections") as client:
        end = float("inf")
        while time.monotonic() < end:
            event = client.receive(30)
            now = time.time_ns()
            if not isinstance(event, Detections):
                continue
            end = min(end, time.monotonic() + seconds)
            spent = event.timing_ms
            decoded_ms = spent.queue + spent.preprocess + spent.inference + spent.postprocess
            late.append((now - event.captured_ns) / 1e6 - decoded_ms)
    late = late[len(late) // 10 :]
    cuts = statistics.quantiles(late, n=100)
    return [
        Row(f"decode done to received at {LOAD:.0%} load, p50", cuts[49], 0.3, unit="ms"),
        Row(f"decode done to received at {LOAD:.0%} load, p99", cuts[98], 2.0, unit="ms"),
    ]


def resident_bytes(pid: int) -> int:
    """VmRSS of a process, as proc(5) has it."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


CHILDREN = {f.__name__: f for f in (publish_small, subscribe_many, subscribe_one)}


def main() -> None:
    """Measure, print, and write JSON where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", default=MODEL, help="the lighter, the more publishing weighs")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each window")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        CHILDREN[given.child[0]](given.child[1])
        return
    data = Path(os.environ.get("QZD_DATA", "../shared/data")).resolve()
    with tempfile.TemporaryDirectory(prefix="qzd-bench-") as directory:
        work = Path(directory)
        convert = [*TOOLS, "convert", data / given.model, "-o", work / "bundle"]
        subprocess.run(convert, check=True, capture_output=True)
        rows = rate_rows(work)
        crowd, fps = crowd_rows(work, data, given.seconds, given.rounds)
        rows += crowd + latency_rows(work, data, fps, given.seconds * 2)
    report(rows, given.json)


if __name__ == "__main__":
    main()
