"""Threads whose names the operating system shows, in `top -H`, `perf` and gdb."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable

__all__ = ["NamedThread", "set_os_name"]

PR_SET_NAME = 15  # prctl(2)
OS_NAME_BYTES = 15


class NamedThread(threading.Thread):
    """A daemon thread with a name that the operating system shows too.

    Parameters
    ----------
    name : str
        `qzd-WORK` or `qzd-WORK-OBJECT`.
    target : callable
        What it runs.
    """

    def __init__(self, name: str, target: Callable[[], object]) -> None:
        super().__init__(target=target, name=name, daemon=True)

    def run(self) -> None:
        """Set the name, then run the target."""
        set_os_name(self.name)
        super().run()


def set_os_name(name: str) -> None:
    """Name the calling thread: without `qzd-`, which its process is called, and cut to what Linux keeps.

    Python 3.14 does so itself, but keeps the prefix.
    """
    if sys.platform == "linux":
        short = name.removeprefix("qzd-").encode()[:OS_NAME_BYTES]
        ctypes.CDLL(None).prctl(PR_SET_NAME, short, 0, 0, 0)
