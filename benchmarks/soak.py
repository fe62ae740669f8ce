"""Whether the daemon grows: memory, open files and threads over time, while clients come and go.

Streams run all the time; subscribers, callers, swaps and reloads come and go around them. The samples of
each second are fitted by a line after the first fifth of the time, and each slope stands beside its standard
error.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from report import Row, report

from qzd_client import Client, ControlClient, InferenceClient
from qzd_client.events import Gap

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from support.processes import Daemon
from support.tiny_model import encode, paint, write_tiny_bundle
from support.videos import write_clip

STREAMS = 4
WARM = 0.2  # of the time: caches fill, arenas grow
TARGETS = {"memory": 0.5, "files": 0.05, "threads": 0.02}  # per minute: MB, files, threads
UNITS = {"memory": "MB/min", "files": "1/min", "threads": "1/min"}

CONFIG = """
[publish]
bind = ["ENDPOINT"]
[control]
bind = ["ipc://{work}/control"]
[inference]
bind = ["ipc://{work}/inference"]
[models.tiny]
bundle = "{work}/models"
device = "CPU"
{streams}
"""
STREAM = """
[streams.s{number}]
source = "{work}/clip.mp4"
model = "tiny"
when_behind = "drop"
loop = true
"""


@dataclass
class Samples:
    """What the daemon has used, second by second."""

    seconds: list[float] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in TARGETS})

    def take(self, pid: int) -> None:
        """Add a sample of a process."""
        process = Path(f"/proc/{pid}")
        rollup = (process / "smaps_rollup").read_text().splitlines()
        pss = sum(int(line.split()[1]) for line in rollup if line.startswith("Pss_Anon:"))
        self.seconds.append(time.monotonic())
        self.values["memory"].append(pss / 1024)
        self.values["files"].append(len(list((process / "fd").iterdir())))
        self.values["threads"].append(len(list((process / "task").iterdir())))

    def slope(self, name: str) -> tuple[float, float]:
        """Return the slope per minute and its standard error, by least squares."""
        minutes = np.array(self.seconds) / 60
        warm = minutes - minutes[0] >= WARM * (minutes[-1] - minutes[0])
        x, y = minutes[warm] - minutes[warm].mean(), np.array(self.values[name])[warm]
        slope = float(x @ y / (x @ x))
        rest = y - y.mean() - slope * x
        return slope, float(np.sqrt(rest @ rest / max(len(x) - 2, 1) / (x @ x)))


def disturb(daemon: Daemon, turn: int, image: bytes) -> None:
    """Do what operators and clients do; each kind every few seconds."""
    with contextlib.ExitStack() as stack:
        match turn % 5:
            case 0:
                client = stack.enter_context(Client(daemon.endpoint))
                client.receive(0.5)
            case 1:
                caller = stack.enter_context(InferenceClient(daemon.socket_of("inference")))
                for _ in range(10):
                    caller.infer(image, "png")
            case 2:
                control = stack.enter_context(ControlClient(daemon.socket_of("control"), timeout=60))
                control.swap("tiny", str(1 + turn // 5 % 2))
            case 3:
                daemon.process.send_signal(signal.SIGHUP)
            case 4:
                control = stack.enter_context(ControlClient(daemon.socket_of("control"), timeout=60))
                control.self_test()
                control.snapshot()


def run(minutes: float, work: Path) -> tuple[Samples, int, int]:
    """Run the daemon; returns the samples, the frames received and the frames lost."""
    for version in (1, 2):
        write_tiny_bundle(work / "models" / str(version), version=str(version))
    write_clip(work / "clip.mp4", [paint((i % 8, 3, "red")) for i in range(100)])
    streams = "".join(STREAM.format(work=work, number=number) for number in range(STREAMS))
    daemon = Daemon(work, CONFIG.format(work=work, streams=streams)).ready()
    samples, received, lost, image = Samples(), 0, 0, encode(paint((1, 1, "red")))
    try:
        with Client(daemon.endpoint) as client:
            end, turn = time.monotonic() + 60 * minutes, 0
            while time.monotonic() < end:
                next_turn = time.monotonic() + 1
                disturb(daemon, turn, image)
                samples.take(daemon.process.pid)
                while (left := next_turn - time.monotonic()) > 0:
                    event = client.receive(left)
                    received += event is not None
                    lost += event.last - event.first + 1 if isinstance(event, Gap) else 0
                turn += 1
        if daemon.stop() != 0:
            raise SystemExit(f"the daemon did not stop well:\n{daemon.log[-4000:]}")
    finally:
        daemon.kill()
    return samples, received, lost


def main() -> int:
    """Run for a number of minutes and print the slopes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        samples, received, lost = run(given.minutes, Path(work))
    rows = [Row("messages received", received, unit=""), Row("messages lost", lost, 0, unit="")]
    for name, target in TARGETS.items():
        slope, error = samples.slope(name)
        unit = UNITS[name]
        rows.append(Row(f"slope of {name}, less two standard errors", slope - 2 * error, target, unit=unit))
        rows.append(Row(f"slope of {name}", slope, unit=unit))
        rows.append(Row(f"its standard error, {name}", error, unit=unit))
        rows.append(Row(f"{name} at the end", samples.values[name][-1], unit=unit.partition("/")[0]))
    report(rows, given.json)
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
