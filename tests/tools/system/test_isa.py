"""Instruction sets of this machine, and advice for another."""

from __future__ import annotations

from pathlib import Path

import pytest

from qzd_tools.system.isa import TARGETS, advice, host_isa, saturates

VNNI = ("avx2", "avx512", "avx512_vnni", "vnni")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu sse4_2 avx2", ("avx2",)),
        ("avx2 avx512f avx512_vnni amx_int8", ("avx2", "avx512", "avx512_vnni", "amx", "vnni")),
        ("avx2 avx_vnni", ("avx2", "avx_vnni", "vnni")),
        ("sse2", ()),
    ],
)
def test_host_isa_reads_cpu_flags(tmp_path: Path, flags: str, expected: tuple[str, ...]) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: {flags}\n")
    assert host_isa(file) == expected
    assert set(expected) <= set(TARGETS)


def test_host_isa_is_empty_when_there_is_no_cpuinfo(tmp_path: Path) -> None:
    assert host_isa(tmp_path / "no") == ()


@pytest.mark.parametrize("target", TARGETS)
def test_saturates_unless_the_target_has_exact_products(target: str) -> None:
    assert saturates(target) == (target in {"any", "avx2", "avx512"})


@pytest.mark.parametrize(
    ("target", "host", "words"),
    [
        ("vnni", ("avx2",), "warning: made for vnni"),
        ("amx", VNNI, ""),
        ("avx512_vnni", ("avx2", "avx_vnni", "vnni"), ""),
        ("amx", (), "warning: made for amx"),
        ("any", VNNI, "--target-isa vnni"),
        ("any", ("avx2",), ""),
        ("vnni", VNNI, ""),
    ],
)
def test_advice_is_given_when_target_and_host_differ(target: str, host: tuple[str, ...], words: str) -> None:
    text = advice(target, host)
    assert words in text
    assert bool(text) == bool(words)
