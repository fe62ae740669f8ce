"""How many processors this process may really use.

A container's CPU quota does not change what `nproc` says: a process that starts a thread a core of its
host is then throttled in bursts. What may live here: reading the affinity and the cgroup's quota.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["usable_cpus"]

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cpus(cgroup_root: Path = _CGROUPS, proc_cgroup: Path = Path("/proc/self/cgroup")) -> int:
    """Processors that this process may use: its affinity, capped by its cgroup's quota.

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
    quotas = [q for d in _cgroup_directories(cgroup_root, proc_cgroup) if (q := _quota(d)) is not None]
    return max(1, min([affinity, *(math.ceil(q) for q in quotas)]))


def _cgroup_directories(root: Path, proc_cgroup: Path) -> list[Path]:
    """The process's own cgroup and all above it: any of them may hold a quota."""
    try:
        lines = os.fsdecode(proc_cgroup.read_bytes()).splitlines()  # a name may hold any byte
    except OSError:
        return [root]
    directories = [root, root / "cpu"]
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root
        parts = [p for p in path.split("/") if p not in ("", "..")]
        directories += [base.joinpath(*parts[: i + 1]) for i in range(len(parts))]
    return directories


def _quota(directory: Path) -> float | None:
    """Processors that a cgroup allows; None where it sets no limit."""
    try:
        if (directory / "cpu.max").exists():
            quota, period = (directory / "cpu.max").read_text().split()
        else:
            quota = (directory / "cpu.cfs_quota_us").read_text().strip()
            period = (directory / "cpu.cfs_period_us").read_text().strip()
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ArithmeticError):
        return None
