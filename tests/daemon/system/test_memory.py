"""The memory budget refuses what does not fit, and disconnects what fills it."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import pytest

from qzd_daemon.system.memory import Memory, MemoryGuard, default_limit
from qzd_ext.memory import usable_memory
from support.waiting import until

MIB = 1 << 20


def test_used_follows_what_is_allocated() -> None:
    memory = Memory()
    before = memory.used
    block = np.ones(64 * MIB, np.uint8)
    assert memory.used - before >= 60 * MIB
    del block
    assert memory.used - before <= 30 * MIB


def test_reserve_gives_no_more_than_there_is() -> None:
    memory = Memory()
    memory.limit = memory.used + 200 * MIB
    with memory.reserve(120 * MIB) as first, memory.reserve(120 * MIB) as second:
        assert (first, second) == (True, False)
    with memory.reserve(120 * MIB) as again:
        assert again


@pytest.mark.parametrize(("share", "granted"), [(2, True), (0, False)])
def test_reserve_of_nothing_says_whether_the_budget_holds(share: int, granted: bool) -> None:
    memory = Memory()
    memory.limit = memory.used * share
    with memory.reserve(0) as given:
        assert given == granted


def test_reserve_gives_back_when_the_work_fails() -> None:
    memory = Memory()
    memory.limit = memory.used + 200 * MIB
    for _ in range(3):
        with contextlib.suppress(ValueError), memory.reserve(150 * MIB) as granted:
            assert granted
            raise ValueError


def test_guard_when_memory_is_used_up_disconnects_until_it_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("qzd_daemon.system.memory.PAUSE_SECONDS", 0.02)
    memory = Memory()
    disconnected = threading.Semaphore(0)
    guard = MemoryGuard(memory, disconnected.release)
    guard.start()
    try:
        assert not disconnected.acquire(timeout=0.1)
        memory.limit = memory.used // 2
        assert disconnected.acquire(timeout=10)
        assert disconnected.acquire(timeout=10)
        memory.limit = memory.used + 500 * MIB
        until(lambda: not disconnected.acquire(timeout=0.2))
    finally:
        guard.close()
    assert "raise [service] memory_mb" in caplog.text


def test_default_limit_leaves_the_kernel_its_share() -> None:
    assert 0.75 * usable_memory() < default_limit() < 0.85 * usable_memory()
