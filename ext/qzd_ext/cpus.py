"""Count the processors that this process may really use, by its affinity and its cgroup's quota.

A container's CPU quota does not change what `nproc` says: a process that starts one thread per core of its
host is then throttled in bursts.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["cgroup_directories", "usable_cpus"]

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cpus(cgroup_root: Path = _CGROUPS, proc_cgroup: Path = Path("/proc/self/cgroup")) -> int:
    """Return how many processors this process may use: its affinity, capped by its cgroup's quota.

    Parameters
    ----------
    cgroup_root : Path
        Where the cgroup file system is mounted; both versions are understood.
    proc_cgroup : Path
        The process's membership, as proc(5) describes it.

    Returns
    -------
    int
        At least 1. A quota of 1.5 processors gives 2 threads.
    """
    affinity = len(os.sched_getaffinity(0))
    quotas = [q for d in cgroup_directories("cpu", cgroup_root, proc_cgroup) if (q := _quota(d)) is not None]
    return max(1, min([affinity, *(math.ceil(q) for q in quotas)]))


def cgroup_directories(controller: str, root: Path, proc_cgroup: Path) -> list[Path]:
    """Return the process's own cgroup and all above it, any of which may set a limit.

    Parameters
    ----------
    controller : str
        `cpu` or `memory`; version 1 has a tree for each.
    root : Path
        Where the cgroup file system is mounted.
    proc_cgroup : Path
        The process's membership, as proc(5) describes it.
    """
    try:
        lines = os.fsdecode(proc_cgroup.read_bytes()).splitlines()  # a name may hold any byte
    except OSError:
        return [root]
    directories = [root, root / controller]
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        base = root / controller if controllers else root
        parts = [p for p in path.split("/") if p not in ("", "..")]
        directories += [base.joinpath(*parts[: i + 1]) for i in range(len(parts))]
    return directories


def _quota(directory: Path) -> float | None:
    """Return the processors that a cgroup allows; None if it sets no limit."""
    try:
        if (directory / "cpu.max").exists():
            quota, period = (directory / "cpu.max").read_text().split()
        else:
            quota = (directory / "cpu.cfs_quota_us").read_text().strip()
            period = (directory / "cpu.cfs_period_us").read_text().strip()
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ArithmeticError):
        return None
