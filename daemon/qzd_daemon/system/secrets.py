"""Keep the process's memory to itself: it holds cameras' passwords and the daemon's secret key."""

from __future__ import annotations

import ctypes
import resource

__all__ = ["forbid_dumps"]

PR_SET_DUMPABLE = 4  # prctl(2)


def forbid_dumps() -> None:
    """Write no core file, and let no other process of the same user read the memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
