"""The machine that something was measured on, in the words that a reader of the figures needs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from msgspec import Struct

from qzd_ext import __version__
from qzd_ext.cpus import usable_cpus
from qzd_tools.system.isa import host_isa

__all__ = ["Machine", "this_machine"]

PACKAGES = ("openvino", "nncf", "numpy", "opencv-python-headless", "pycocotools")


class Machine(Struct, frozen=True, kw_only=True):
    """Where a measurement was made."""

    cpu: str
    cores: int
    """That the machine has."""
    usable: int
    """That this process may use: its affinity and its container's quota."""
    instruction_sets: tuple[str, ...]
    memory_gb: float
    system: str
    versions: dict[str, str]


def this_machine() -> Machine:
    """Describe the machine that this process runs on."""
    versions = {"qzd": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Machine(
        cpu=_cpu_name(),
        cores=os.cpu_count() or 1,
        usable=usable_cpus(),
        instruction_sets=host_isa(),
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        system=f"{platform.system()} {platform.release()}",
        versions=versions,
    )


def _cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """As the kernel has it; the architecture where it has none."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
