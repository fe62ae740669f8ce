"""Threads: named as the operating system shows them in `top -H`, `perf` and gdb, and reserved in advance."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Callable, Iterator

from qzd_ext.errors import ResourceError

__all__ = ["NamedThread", "reserve_threads", "set_os_name"]

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


@contextlib.contextmanager
def reserve_threads(count: int) -> Iterator[None]:
    """Hold this many threads while the context lasts, so that as many can be started when it ends.

    Raises
    ------
    ResourceError
        The system starts fewer.
    """
    done = threading.Event()
    held: list[NamedThread] = []
    try:
        for number in range(count):
            try:
                thread = NamedThread("qzd-reserved", done.wait)
                thread.start()
            except RuntimeError as error:
                raise ResourceError(
                    f"{count} more threads are needed, and only {number} can be started",
                    fix="raise the limit (TasksMax=, --pids-limit, ulimit -u), or configure fewer streams",
                ) from error
            held.append(thread)
        yield
    finally:
        done.set()
        for thread in held:
            thread.join()
