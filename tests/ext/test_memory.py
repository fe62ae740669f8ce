"""Limits of memory, read from folders that look like the cgroup file systems."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qzd_ext.memory import usable_memory

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
GIB = 1 << 30


@pytest.mark.parametrize(
    ("files", "membership", "wanted"),
    [
        ({}, "0::/\n", MACHINE),
        ({"memory.max": "max\n"}, "0::/\n", MACHINE),
        ({"memory.max": f"{GIB}\n"}, "0::/\n", GIB),
        ({"memory.max": f"{GIB}\n", "memory.high": "5000\n"}, "0::/\n", 5000),
        ({"a/memory.max": f"{GIB}\n", "a/b/memory.max": "max\n"}, "0::/a/b\n", GIB),
        ({"memory/x/memory.limit_in_bytes": f"{GIB}\n"}, "4:memory:/x\n", GIB),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, "4:memory:/\n", MACHINE),
        ({"cpu/x/memory.limit_in_bytes": f"{GIB}\n"}, "3:cpu,cpuacct:/x\n", MACHINE),
        ({"memory.max": "rubbish"}, "0::/\n", MACHINE),
        ({"memory.max": "0\n"}, "0::/\n", MACHINE),
    ],
    ids=["none", "max", "one GiB", "high", "parent", "v1", "v1 none", "other tree", "rubbish", "zero"],
)
def test_usable_memory_follows_the_limit(
    tmp_path: Path, files: dict[str, str], membership: str, wanted: int
) -> None:
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(text)
    (tmp_path / "self").write_text(membership)
    assert usable_memory(tmp_path / "cgroup", tmp_path / "self") == wanted
