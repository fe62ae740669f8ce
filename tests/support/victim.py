"""A daemon in a memory cgroup of 1 GiB, with an honest stream and an honest subscriber, to be attacked."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qzd_client.subscriber import Client, Detections, Gap
from support.configuration import model, publish, stream, table
from support.processes import Daemon
from support.waiting import until

__all__ = ["CONFIG", "Honest", "Victim", "memory_cgroup"]

CGROUPS = Path("/sys/fs/cgroup")
LIMIT = 1 << 30
QUIET_SECONDS = 3.0

CONFIG = (
    publish("ENDPOINT", "tcp://127.0.0.1:*")
    + table("control", bind=("ipc://{directory}/control", "tcp://127.0.0.1:*"))
    + table("http", listen="127.0.0.1:0")
    + model(bundle="{directory}/tiny")
    + stream("honest", "{directory}/honest.mp4", when_behind="drop", loop=True)
    + "{more}\n"
)


class Honest:
    """A subscriber that counts what it receives: lost frames and the latency of each."""

    def __init__(self, endpoint: str) -> None:
        self.lost = self.received = 0
        self._latencies: list[float] = []
        self._endpoint = endpoint
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def p99(self) -> float:
        """Milliseconds from capture to receipt, of the frames since the last call."""
        latencies, self._latencies = sorted(self._latencies), []
        return latencies[int(len(latencies) * 0.99)] if latencies else float("inf")

    def _run(self) -> None:
        with Client(self._endpoint) as client:
            while not self._stop.is_set():
                event = client.receive(0.2)
                match event:
                    case Detections():
                        self.received += 1
                        self._latencies.append((time.time_ns() - event.captured_ns) / 1e6)
                    case Gap():
                        self.lost += event.last - event.first + 1


class Victim:
    """The daemon that is attacked."""

    def __init__(self, directory: Path, daemon: Daemon, honest: Honest) -> None:
        self.directory = directory
        self.daemon = daemon
        self.honest = honest
        until(lambda: honest.received > 0)
        honest.p99()
        time.sleep(QUIET_SECONDS)
        self.quiet = honest.p99()

    @property
    def rss(self) -> int:
        """Bytes of anonymous memory."""
        status = Path(f"/proc/{self.daemon.process.pid}/status").read_text()
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon"))

    def check(self) -> None:
        """Check that the daemon lives, and that the honest stream has lost nothing and goes on."""
        assert self.daemon.process.poll() is None, self.daemon.log[-4000:]
        received = self.honest.received
        until(lambda: self.honest.received > received + 10)
        assert self.honest.lost == 0, self.daemon.log[-4000:]


@contextlib.contextmanager
def memory_cgroup(name: str) -> Iterator[Path]:
    """Make a memory cgroup of LIMIT; yields the file that takes processes into it."""
    unified = (CGROUPS / "cgroup.controllers").exists()
    folder = (CGROUPS if unified else CGROUPS / "memory") / name
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("no memory cgroup can be made here")
    (folder / ("memory.max" if unified else "memory.limit_in_bytes")).write_text(str(LIMIT))
    try:
        yield folder / "cgroup.procs"
    finally:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                folder.rmdir()
                break
            time.sleep(0.1)
