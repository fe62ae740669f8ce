"""What publishing costs: small messages per second, a hundred subscribers, and the time on the wire.

Daemon, subscribers and publisher are processes of their own. What others do to the engine is the median of
windows taken in turns, in one run of one daemon. A hundred subscribers on the daemon's own machine take CPU
time for themselves as well, which is not the daemon's cost. So it is judged twice without that: with daemon
and subscribers on CPUs of their own, and by frames a CPU second of the daemon. What is left where all share
all CPUs is shown, beside what the subscribers take.

The time on the wire goes through three threads that sleep until they are woken: libzmq's in the daemon,
libzmq's in the subscriber, and the subscriber's own. What waking them costs on this machine, under this load,
is what plain ZeroMQ sockets show, in windows taken in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import msgspec
import zmq
from programs import TOOLS, daemon, resident_bytes
from report import Row, report

from qzd_client import messages
from qzd_client.control import ControlClient
from qzd_client.subscriber import Client, Detections, Gap, StreamState
from qzd_daemon.config.schema import PublishConfig
from qzd_daemon.server.publisher import Publisher
from qzd_daemon.transport.listener import Listener

MODEL = "models/ssd_mobilenet_v1_coco.xml"
VIDEO = "videos/person-bicycle-car-detection.mp4"
MANY = 10**6
MESSAGES = 300_000
STEADY, STALLED, RESTLESS = 80, 10, 10
LOOK_MS = 50
LOAD = 0.7
CAMERAS = [f"video{i}" for i in range(6)]
LIBZMQ = "ZMQbg"  # what it calls its threads
PLAIN_BYTES = 1000

CONFIG = """
[publish]
bind = ["ipc://{work}/detections"]
[control]
bind = ["ipc://{work}/control"]
[models.ssd]
bundle = "{bundle}"
device = "CPU"
"""
STREAM = """
[streams.{name}]
source = "{video}"
model = "ssd"
loop = true
{keys}
"""


def publish_small(endpoint: str) -> None:
    """Publish the smallest message there is, with the daemon's publisher, in a process of its own."""
    listener = Listener()
    publisher = Publisher(PublishConfig(bind=(endpoint,), send_hwm=MANY, linger_ms=20_000), listener)
    listener.start()
    publisher.start()
    publisher.wait_for_subscriptions(1, 60)
    message, topic = messages.StreamState(stream="gate", state="running"), messages.stream_topic("gate")
    for _ in range(MESSAGES):
        publisher.publish(topic, message)
    publisher.close()
    listener.close()


def rate_rows(work: Path) -> list[Row]:
    """Measure the messages per second that one subscriber receives and understands, and how many it lost."""
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
    """Run a function of this file in another process."""
    process = subprocess.Popen([sys.executable, __file__, "--child", function, *arguments])
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def subscribe_many(endpoint: str) -> None:
    """Subscribe many times, in a process of its own: some read all, some never, some come and go."""
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
    """Connect a plain SUB socket that subscribes to everything."""
    one = context.socket(zmq.SUB)
    one.setsockopt(zmq.RCVHWM, hwm)
    one.subscribe(messages.PREFIX)
    one.connect(endpoint)
    return one


def drain(one: zmq.Socket[bytes]) -> None:
    """Read what is there."""
    try:
        while True:
            one.recv(zmq.NOBLOCK)
    except zmq.Again:
        return


def configuration(work: Path, data: Path, keys: str, streams: Sequence[str] = ("video",)) -> str:
    """One model, and the video as each of the streams, with these keys."""
    tables = [STREAM.format(name=name, video=data / VIDEO, keys=keys) for name in streams]
    return CONFIG.format(work=work, bundle=work / "bundle") + "".join(tables)


def frames_published(caller: ControlClient) -> int:
    """Of the stream, so far."""
    return caller.status().published.get(messages.detections_topic("video", "ssd"), 0)


@dataclass(frozen=True)
class Window:
    """What the engine did in a measured time."""

    fps: float
    cpu_fps: float
    """Frames for each second that the daemon ran on a CPU, which does not depend on what else runs."""
    sending: float
    """Part of the daemon's CPU time in libzmq's thread, the only one that works for each subscriber."""
    others: float
    """CPUs that the subscribers took."""


def measure(caller: ControlClient, pid: int, subscribers: int, seconds: float) -> Window:
    """Let it run so long; processes are given by their ids."""
    frames, begin = frames_published(caller), time.perf_counter()
    cpu, sending, others = cpu_seconds(pid), sending_seconds(pid), cpu_seconds(subscribers)
    time.sleep(seconds)
    frames = frames_published(caller) - frames
    elapsed = time.perf_counter() - begin
    cpu, sending = cpu_seconds(pid) - cpu, sending_seconds(pid) - sending
    others = cpu_seconds(subscribers) - others
    return Window(frames / elapsed, frames / cpu, sending / cpu, others / elapsed)


def cpu_seconds(pid: int) -> float:
    """Return what a process has spent on CPUs, in user and kernel mode, as proc(5) has it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sending_seconds(pid: int) -> float:
    """Return what of it libzmq's own threads have spent; other threads come and go."""
    spent = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if (task / "comm").read_text().startswith(LIBZMQ):
                spent += int((task / "schedstat").read_text().split()[0])
    return spent / 1e9


@contextmanager
def on_cpus(cpus: Collection[int]) -> Iterator[None]:
    """Run the processes that are started in the block on these CPUs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class Crowd:
    """The same engine with one subscriber and with a hundred, in turns."""

    alone: list[Window]
    crowded: list[Window]
    growth_mb: float

    def ratio(self, what: Callable[[Window], float]) -> float:
        """Median of the pairs."""
        return statistics.median(
            what(many) / what(one) for many, one in zip(self.crowded, self.alone, strict=True)
        )


def draw_crowd(work: Path, data: Path, given: argparse.Namespace, cpus: Sequence[Collection[int]]) -> Crowd:
    """Serve one and a hundred; the daemon runs on the first CPUs, subscribers on the second."""
    endpoint = f"ipc://{work}/detections"
    alone: list[Window] = []
    crowded: list[Window] = []
    resident = []
    with (
        on_cpus(cpus[0]),
        daemon(work, configuration(work, data, 'when_behind = "wait"')) as process,
        on_cpus(cpus[1]),
        ControlClient(f"ipc://{work}/control") as caller,
    ):
        while not caller.ping() or not frames_published(caller):
            time.sleep(0.1)
        for _ in range(given.rounds):
            for who, windows in (("subscribe_one", alone), ("subscribe_many", crowded)):
                with child(who, endpoint) as subscribers:
                    time.sleep(2)
                    windows.append(measure(caller, process.pid, subscribers.pid, given.seconds))
                    resident.append(resident_bytes(process.pid))
    settled = resident[2:]  # all that is kept for the stalled is there
    early, late = settled[: len(settled) // 2], settled[len(settled) // 2 :]
    return Crowd(alone, crowded, (statistics.median(late) - statistics.median(early)) / 2**20)


def crowd_rows(shared: Crowd, apart: Crowd | None) -> list[Row]:
    """Measure what a hundred subscribers cost the engine."""
    rows = [
        Row("engine, one subscriber", statistics.median(w.fps for w in shared.alone), unit="fps"),
        Row("libzmq's part of its CPU time, which grows with 100 by", sending_added(shared), 0.05),
        Row("its frames a CPU second, 100 subscribers to one", shared.ratio(cpu_fps), 0.95, "higher"),
    ]
    if apart is not None:
        name = "its frames per second, 100 to one, they on other CPUs"
        rows.append(Row(name, apart.ratio(fps), 0.95, "higher"))
    return [
        *rows,
        Row("its frames per second, 100 to one, all on the same CPUs", shared.ratio(fps), better="higher"),
        Row("CPUs that the 100 take", statistics.median(w.others for w in shared.crowded), unit="1"),
        Row("growth of memory, first half of the rounds to the second", shared.growth_mb, 4.0, unit="MB"),
    ]


def sending_added(crowd: Crowd) -> float:
    """Hardly disturbed by what else the machine does, other than frames per second."""
    many, one = (statistics.median(w.sending for w in windows) for windows in (crowd.crowded, crowd.alone))
    return many - one


fps = attrgetter("fps")
cpu_fps = attrgetter("cpu_fps")


def subscribe_one(endpoint: str) -> None:
    """Subscribe and read all, in a process of its own."""
    with zmq.Context() as context:
        one = subscriber(context, endpoint)
        while one.poll():
            drain(one)


def latency_rows(work: Path, data: Path, load: float, given: argparse.Namespace) -> list[Row]:
    """From the end of decoding to the message's arrival, at `load` frames per second of all cameras together.

    A single camera would need each frame before the last is done: its messages wait for their turn, which
    is the model's time and not the wire's.
    """
    late: list[float] = []
    stamped: list[float] = []
    plain: list[float] = []
    keys = f'when_behind = "wait"\nmax_fps = {load / len(CAMERAS):.1f}'
    with daemon(work, configuration(work, data, keys, CAMERAS)):
        for _ in range(given.rounds):
            for event, now in received(f"ipc://{work}/detections", given.seconds):
                decoded = event.captured_ns + 1e6 * sum(msgspec.structs.astuple(event.timing_ms))
                late.append((now - decoded) / 1e6)
                stamped.append((event.published_ns - decoded) / 1e6)
            with child("publish_plain", f"ipc://{work}/plain@{load}"):
                plain += plain_times(f"ipc://{work}/plain", given.seconds)
    took, waited, bare = (statistics.quantiles(times, n=100) for times in (late, stamped, plain))
    return [
        Row(f"decode done to received at {LOAD:.0%} load, p50", took[49], 0.3, unit="ms"),
        Row(f"decode done to received at {LOAD:.0%} load, p99", took[98], 2.0, unit="ms"),
        Row("until its turn in the stream's order, `published_ns`, p50", waited[49], unit="ms"),
        Row("until its turn in the stream's order, `published_ns`, p99", waited[98], unit="ms"),
        Row("plain ZeroMQ sockets beside it, sent to received, p50", bare[49], unit="ms"),
        Row("plain ZeroMQ sockets beside it, sent to received, p99", bare[98], unit="ms"),
    ]


def received(endpoint: str, seconds: float) -> Iterator[tuple[Detections, int]]:
    """Receive detections, each with the time of its arrival, after a tenth of the time to warm up."""
    end = begin = float("inf")
    with Client(endpoint) as client:
        while time.monotonic() < end:
            event, now = client.receive(30), time.time_ns()
            if not isinstance(event, Detections):
                continue
            if end == float("inf"):
                begin, end = time.monotonic() + seconds / 10, time.monotonic() + seconds
            if time.monotonic() > begin:
                yield event, now


def publish_plain(endpoint_rate: str) -> None:
    """Send the time by XPUB, in a process of its own, with as many bytes as a frame's message has."""
    endpoint, _, rate = endpoint_rate.rpartition("@")
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.bind(endpoint)
        while True:
            time.sleep(1 / float(rate))
            socket.send(messages.PREFIX.encode(), zmq.SNDMORE)
            socket.send(str(time.time_ns()).encode().ljust(PLAIN_BYTES))


def plain_times(endpoint: str, seconds: float) -> list[float]:
    """Milliseconds from sent to received, by plain ZeroMQ sockets."""
    with zmq.Context() as context, subscriber(context, endpoint) as socket:
        socket.recv_multipart()
        times = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sent = int(socket.recv_multipart()[1])
            times.append((time.time_ns() - sent) / 1e6)
        return times[len(times) // 10 :]


CHILDREN = {f.__name__: f for f in (publish_small, publish_plain, subscribe_many, subscribe_one)}


def main() -> None:
    """Measure, print, and write JSON where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", default=MODEL, help="the lighter, the more publishing weighs")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each window")
    parser.add_argument("--rounds", type=int, default=6, help="two or more")
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
        cpus = sorted(os.sched_getaffinity(0))
        rows = rate_rows(work)
        shared = draw_crowd(work, data, given, (cpus, cpus))
        halves = (cpus[: len(cpus) // 2], cpus[len(cpus) // 2 :])
        apart = draw_crowd(work, data, given, halves) if all(halves) else None
        rows += crowd_rows(shared, apart)
        rows += latency_rows(work, data, LOAD * statistics.median(map(fps, shared.alone)), given)
    report(rows, given.json)


if __name__ == "__main__":
    main()
