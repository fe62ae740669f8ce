"""qzd's programs as processes of a benchmark, and what they take of the machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["TOOLS", "daemon", "resident_bytes"]

TOOLS = (sys.executable, "-c", "from qzd_tools.cli import main; main()")
QZD = (sys.executable, "-c", "from qzd_daemon.cli import main; main()")


@contextmanager
def daemon(work: Path, config: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A qzd process with a configuration, which is written to `work`; stopped and awaited at the end."""
    path = work / "qzd.toml"
    path.write_text(config)
    command = [*QZD, "--config", str(path), "--log-level", "warning"]
    process = subprocess.Popen(command, env=os.environ | environment)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def resident_bytes(pid: int) -> int:
    """VmRSS of a process, as proc(5) has it."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])
