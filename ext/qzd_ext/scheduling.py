"""How long a thread may stay on a processor while another that has woken waits for it.

What may live here: the scheduler's slice, as sched(7) and sched_setattr(2) have it.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import platform
from collections.abc import Iterator

__all__ = ["giving_way"]

log = logging.getLogger(__name__)

LONGEST_SLICE_NS = 100_000_000  # the kernel's limit
_SETATTR = {"x86_64": 314, "aarch64": 274}  # glibc has no function for it before 2.41


class _Attributes(ctypes.Structure):
    """struct sched_attr; policy 0 is SCHED_OTHER."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


@contextlib.contextmanager
def giving_way() -> Iterator[None]:
    """Threads that are started in here give way at once to any other that wakes.

    They ask Linux 6.12 and later for the longest slice there is. They keep their share of the processors,
    but a thread with a shorter slice, which is every other, need not wait for the end of theirs: it has a
    message to send or to read, and is gone in microseconds. Where the kernel cannot, nothing changes.
    """
    given = _set_slice(LONGEST_SLICE_NS)
    try:
        yield
    finally:
        if given:
            _set_slice(0)  # the kernel's default


def _set_slice(nanoseconds: int) -> bool:
    """Of the calling thread; those that it starts inherit it."""
    if platform.machine() not in _SETATTR:
        return False
    try:
        usual, nice = os.sched_getscheduler(0) == os.SCHED_OTHER, os.getpriority(os.PRIO_PROCESS, 0)
    except OSError as error:  # a container may forbid to ask
        log.debug("threads keep their slices: %s", error)
        return False
    if not usual:
        return False
    wanted = _Attributes(size=ctypes.sizeof(_Attributes), nice=nice, runtime=nanoseconds)
    call = ctypes.CDLL(None, use_errno=True).syscall
    if call(_SETATTR[platform.machine()], 0, ctypes.byref(wanted), 0) == 0:
        return True
    log.debug("threads keep their slices: sched_setattr: %s", os.strerror(ctypes.get_errno()))
    return False
