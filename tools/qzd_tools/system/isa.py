"""Instruction sets: what an INT8 model is made for, and what this machine has.

Without VNNI, a CPU multiplies 8-bit pairs into 16 bits (vpmaddubsw) and saturates: 255 * 127 * 2 is more
than 32767. A model whose weights use all eight bits is then wrong, silently; one whose weights are fitted by
`quantize.overflow` is right everywhere and a little coarser.
"""

from __future__ import annotations

import platform
from pathlib import Path

__all__ = ["TARGETS", "advice", "host_isa", "is_wrong_here", "saturates"]

TARGETS = ("any", "avx2", "avx512", "vnni", "avx_vnni", "avx512_vnni", "amx")
"""What `--target-isa` takes; `any` is safe everywhere, `vnni` stands for every CPU that has it or AMX."""

_EXACT = ("vnni", "avx_vnni", "avx512_vnni", "amx")
_FLAGS = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx_vnni": "avx_vnni",
    "avx512_vnni": "avx512_vnni",
    "amx_int8": "amx",
}
"""Our name by the kernel's."""


def saturates(target: str) -> bool:
    """Whether 8-bit products may saturate on some CPU that the target stands for."""
    return target not in _EXACT


def host_isa(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Return the instruction sets of `TARGETS` that this machine has; empty if they cannot be read."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return ()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    found = [name for flag, name in _FLAGS.items() if flag in flags]
    return (*found, "vnni") if any(name in _EXACT for name in found) else tuple(found)


def is_wrong_here(target: str, host: tuple[str, ...]) -> bool:
    """Whether a model made for this target saturates on this host."""
    return not saturates(target) and "vnni" not in host  # any of the exact ones will do


def advice(target: str, host: tuple[str, ...]) -> str:
    """Say what to know about this target on this host, in one sentence; empty if there is nothing."""
    here = ", ".join(host) or platform.machine()
    if is_wrong_here(target, host):
        return (
            f"warning: made for {target}, which this machine ({here}) does not have: it saturates here, so "
            "accuracy measured here is not that of the target, and the bundle must not be served here"
        )
    if saturates(target) and "vnni" in host:
        return (
            f"safe on {target}; this machine has VNNI ({here}): where the whole fleet has it, "
            "--target-isa vnni uses all eight bits of the weights"
        )
    return ""
