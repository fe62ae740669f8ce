"""Fixtures for the daemon's tests: real processes, videos made here, and nothing left running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from process import Daemon

StartDaemon = Callable[..., Daemon]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    """Start `qzd` with a configuration; every one that was started is killed at the end."""
    started: list[Daemon] = []

    def start(config: str, *options: str) -> Daemon:
        started.append(Daemon(tmp_path, config, *options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
