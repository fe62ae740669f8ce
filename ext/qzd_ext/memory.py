"""Measure the memory that this process may really use, by the machine and its cgroup's limit."""

from __future__ import annotations

import os
from pathlib import Path

from qzd_ext.cpus import cgroup_directories

__all__ = ["usable_memory"]

_CGROUPS = Path("/sys/fs/cgroup")
_LIMITS = ("memory.max", "memory.high", "memory.limit_in_bytes")  # of versions 2, 2 and 1


def usable_memory(cgroup_root: Path = _CGROUPS, proc_cgroup: Path = Path("/proc/self/cgroup")) -> int:
    """Return how many bytes this process may use: the machine's memory, capped by its cgroup's limits.

    Parameters
    ----------
    cgroup_root : Path
        Where the cgroup file system is mounted; both versions are understood.
    proc_cgroup : Path
        The process's membership, as proc(5) describes it.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    directories = cgroup_directories("memory", cgroup_root, proc_cgroup)
    limits = [_limit(directory / name) for directory in directories for name in _LIMITS]
    return min([machine, *(limit for limit in limits if limit)])


def _limit(path: Path) -> int | None:
    """Return the bytes that a file of a cgroup allows; None if it sets no limit."""
    try:
        return int(path.read_text())  # `max` is not a number
    except (OSError, ValueError):
        return None
