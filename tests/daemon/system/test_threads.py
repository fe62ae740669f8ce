"""Threads are reserved before a change begins, or the change does not begin."""

from __future__ import annotations

import threading

import pytest

from qzd_daemon.system.threads import NamedThread, reserve_threads
from qzd_ext.errors import ResourceError


def test_reserved_threads_are_free_again_afterwards() -> None:
    before = threading.active_count()
    with reserve_threads(5):
        assert before + 5 == threading.active_count()
    assert before == threading.active_count()


def test_reserve_when_too_few_can_be_started_holds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    start = NamedThread.start

    def refuse(thread: NamedThread) -> None:
        if threading.active_count() >= before + 3:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(NamedThread, "start", refuse)
    with pytest.raises(ResourceError, match="5 more threads are needed, and only 3"), reserve_threads(5):
        pass
    assert before == threading.active_count()
