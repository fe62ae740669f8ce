"""Quotas, read from folders that look like the cgroup file systems."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qzd_ext.cpus import usable_cpus

HOST = len(os.sched_getaffinity(0))


def _files(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "membership", "wanted"),
    [
        ({}, "0::/\n", HOST),
        ({"cpu.max": "max 100000\n"}, "0::/\n", HOST),
        ({"cpu.max": "50000 100000\n"}, "0::/\n", 1),
        ({"cpu.max": "150000 100000\n"}, "0::/\n", min(2, HOST)),
        ({"a/cpu.max": "50000 100000\n", "a/b/cpu.max": "max 100000\n"}, "0::/a/b\n", 1),
        ({"a/cpu.max": "max 100000\n", "a/b/cpu.max": "9000 100000\n"}, "0::/a/b\n", 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu,cpuacct:/\n", HOST),
        ({"cpu/x/cpu.cfs_quota_us": "50000", "cpu/x/cpu.cfs_period_us": "100000"}, "3:cpu,cpuacct:/x\n", 1),
        ({"cpu.max": "rubbish"}, "0::/\n", HOST),
        ({"cpu.max": "1000 0"}, "0::/\n", HOST),
        ({"cpu.max": "9" * 400 + " 1"}, "0::/\n", HOST),
        ({"cpu.max": "50000 100000\n"}, "rubbish\n", 1),
        ({"caf\udce9/cpu.max": "50000 100000\n"}, "0::/caf\udce9\n", 1),
    ],
    ids=["none", "max", "half", "one and a half", "parent", "own", "v1 none", "v1 half", "rubbish",
         "no period", "huge", "no membership", "not UTF-8"],
)
def test_usable_cpus_follows_the_quota(
    tmp_path: Path, files: dict[str, str], membership: str, wanted: int
) -> None:
    proc = tmp_path / "self"
    proc.write_bytes(os.fsencode(membership))
    assert usable_cpus(_files(tmp_path / "cgroup", files), proc) == wanted


def test_usable_cpus_without_proc_is_the_affinity(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path, tmp_path / "nothing") == HOST
