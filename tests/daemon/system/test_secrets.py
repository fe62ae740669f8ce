"""What the process holds in memory stays there."""

from __future__ import annotations

from support.processes import run_python

SCRIPT = """
import ctypes, resource
from qzd_daemon.system.secrets import forbid_dumps
PR_GET_DUMPABLE = 3
print(ctypes.CDLL(None).prctl(PR_GET_DUMPABLE))
forbid_dumps()
print(ctypes.CDLL(None).prctl(PR_GET_DUMPABLE), resource.getrlimit(resource.RLIMIT_CORE))
"""


def test_forbid_dumps_leaves_no_way_to_a_core_file() -> None:
    assert run_python(SCRIPT).stdout.splitlines() == ["1", "0 (0, 0)"]
