"""Real processes: scripts that run to their end, and `qzd`, which is started, awaited and stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from qzd_client.subscriber import Client
from support.waiting import until

__all__ = ["Daemon", "run_python", "wait_until_heard"]

COMMAND = (sys.executable, "-c", "from qzd_daemon.cli import main; main()")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run a script in an interpreter of its own, to its end; what it printed is kept."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def wait_until_heard(client: Client) -> None:
    """Wait for the first heartbeat: from then on the client receives everything that is published."""

    def heard() -> bool:
        if not client.heard_at:
            client.receive(0.1)
        return client.heard_at > 0

    until(heard)


class Daemon:
    """`qzd --config DIRECTORY/qzd.toml`, with readiness told over a real notify socket.

    The word ENDPOINT in the configuration stands for an ipc endpoint in the directory.
    """

    def __init__(
        self, directory: Path, config: str, *options: str, files: int | None = None, **environment: str
    ) -> None:
        self.endpoint = f"ipc://{directory}/detections"
        self._path = directory / "qzd.toml"
        self.configure(config)
        self._log = (directory / "log").open("w+b")
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = directory / "notify"
        address.unlink(missing_ok=True)
        self._notices.bind(str(address))
        environment = {
            **os.environ,
            **environment,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "NOTIFY_SOCKET": str(address),
        }
        limit = () if files is None else ("prlimit", f"--nofile={files}:{files}")
        arguments = [*limit, *COMMAND, "--config", str(self._path), *options]
        self.process = subprocess.Popen(arguments, stdout=self._log, stderr=self._log, env=environment)

    def configure(self, config: str) -> None:
        """Write the configuration; a process that runs sees it at SIGHUP."""
        self._path.write_text(config.replace("ENDPOINT", self.endpoint))

    def socket_of(self, name: str) -> str:
        """Return an ipc endpoint in the directory, by the name that the configuration gives it."""
        return self.endpoint.replace("detections", name)

    def reload(self, config: str) -> str:
        """Write the configuration, ask for it, and wait until it serves; returns that notice."""
        self.forget_notices()
        self.configure(config)
        self.process.send_signal(signal.SIGHUP)
        return self.notice("READY=1")

    @property
    def log(self) -> str:
        """What it has written so far."""
        return os.pread(self._log.fileno(), 2**24, 0).decode()

    def notice(self, field: str, timeout: float = 30) -> str:
        """Wait until it tells systemd such a field, for example READY=1; returns the whole notice."""
        self._notices.settimeout(0.1)
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            gone = self.process.poll() is not None
            with contextlib.suppress(TimeoutError):
                notice = self._notices.recv(4096).decode()
                if field in notice.splitlines():
                    return notice
                continue
            if gone:
                break
        raise AssertionError(f"no {field} in {timeout} s; its log:\n{self.log}")

    def forget_notices(self) -> None:
        """Leave out what it has told systemd so far."""
        self._notices.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._notices.recv(4096)

    def ready(self) -> Daemon:
        """Wait until it serves."""
        self.notice("READY=1")
        return self

    def wait(self, timeout: float = 30) -> int:
        """Wait for its end; returns the exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s; its log:\n{self.log}") from None

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop, and wait; returns the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self.process.kill()
        self.process.wait()
        self._log.close()
        self._notices.close()
