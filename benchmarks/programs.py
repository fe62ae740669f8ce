"""qzd's programs as processes of a benchmark, and what they take of the machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["TOOLS", "cpu_seconds", "daemon", "resident_bytes", "switches"]

TOOLS = (sys.executable, "-c", "from qzd_tools.cli import main; main()")
QZD = (sys.executable, "-c", "from qzd_daemon.cli import main; main()")


@contextmanager
def daemon(work: Path, config: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run qzd with a configuration, which is written to `work`; stop it and wait at the end."""
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


def cpu_seconds(pid: int) -> dict[str, float]:
    """CPU time of a process by the kind of its threads: the first word of their names, as proc(5) has it.

    OpenVINO's threads have the name of the process.
    """
    taken: defaultdict[str, float] = defaultdict(float)
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread may end meanwhile
            name, _, fields = (task / "stat").read_text().partition("(")[2].rpartition(")")
            taken[name.partition("-")[0]] += sum(map(int, fields.split()[11:13])) / os.sysconf("SC_CLK_TCK")
    return taken


def switches(pid: int) -> int:
    """Context switches of all threads of a process since their start."""
    count = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            lines = (task / "status").read_text().splitlines()
            count += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return count
