"""One budget for the process's memory.

Requests that do not fit are refused. Peers that fill it are disconnected before the kernel ends the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator

from qzd_client.requests import ErrorBody
from qzd_daemon.system.threads import NamedThread
from qzd_ext.memory import usable_memory

__all__ = ["NO_MEMORY", "Memory", "MemoryGuard", "default_limit"]

log = logging.getLogger(__name__)

NO_MEMORY = ErrorBody("busy", "there is not enough memory now. To fix: ask again later, or send less")
SHARE = 0.8  # of the container's or the machine's memory: the kernel counts more than the process does
FILL_RATE = 2 << 30  # bytes per second that peers can send over ipc
LOOK_SECONDS = (0.02, 1.0)  # between two looks at the memory: the shortest and the longest time
PAUSE_SECONDS = 0.05  # until the sockets' threads have freed what peers had sent
PAGE = os.sysconf("SC_PAGE_SIZE")
STATM = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)  # opened once: files may be used up later


def default_limit() -> int:
    """Return the bytes that the process may use if the configuration does not say."""
    return int(usable_memory() * SHARE)


class Memory:
    """The process's own memory, measured, with what is reserved for work that begins.

    Parameters
    ----------
    limit : int
        Bytes.
    """

    def __init__(self, limit: int = sys.maxsize) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._reserved = 0

    @property
    def used(self) -> int:
        """Bytes of memory that no file backs. Source: proc_pid_statm(5)."""
        _, resident, shared, *_ = os.pread(STATM, 128, 0).split()
        return (int(resident) - int(shared)) * PAGE

    @contextlib.contextmanager
    def reserve(self, size: int) -> Iterator[bool]:
        """Keep bytes free while the context lasts; gives False if there is no room for them.

        What the work has allocated when it ends is measured from then on.
        """
        with self._lock:
            granted = self.used + self._reserved + size <= self.limit
            if granted:
                self._reserved += size
        try:
            yield granted
        finally:
            if granted:
                with self._lock:
                    self._reserved -= size


class MemoryGuard:
    """Watches the memory on a thread of its own, and disconnects peers when it is used up.

    What libzmq buffers for a peer has no limit of its own: a message may have any number of frames.

    Parameters
    ----------
    memory : Memory
    disconnect : callable
        Disconnects the peers whose messages may fill the memory.
    """

    def __init__(self, memory: Memory, disconnect: Callable[[], None]) -> None:
        self._memory = memory
        self._disconnect = disconnect
        self._stop = threading.Event()
        self._thread = NamedThread("qzd-memory", self._run)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """Watch no more."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_pause(self._memory.limit - self._memory.used)):
            used = self._memory.used
            if used > self._memory.limit:
                log.error(
                    "%d MB of memory may be used, and are: callers and senders are disconnected. "
                    "To fix: raise [service] memory_mb and the memory of the machine or container, "
                    "or lower max_image_bytes and max_connections",
                    self._memory.limit >> 20,
                )
                self._disconnect()
                self._stop.wait(PAUSE_SECONDS)
                _give_back()


def _pause(free: int) -> float:
    """Return the seconds until the next look: peers can fill half of what is free until then."""
    shortest, longest = LOOK_SECONDS
    return min(max(free / FILL_RATE / 2, shortest), longest)


def _give_back() -> None:
    """Let glibc return what was freed, which it would keep for the next message."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
