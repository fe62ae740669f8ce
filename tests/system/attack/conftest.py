"""The fixture of all attacks: a daemon in a memory cgroup, with an honest stream."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.processes import Daemon
from support.tiny_model import paint, write_tiny_bundle
from support.victim import CONFIG, Honest, Victim, memory_cgroup
from support.videos import write_clip


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Callable[..., Victim]]:
    """Start a daemon with some more configuration; it is stopped at the end, and must stop well."""
    with contextlib.ExitStack() as running:

        def start(more: str = "", files: int | None = None) -> Victim:
            members = running.enter_context(memory_cgroup(f"qzd-attack-{os.getpid()}"))
            write_tiny_bundle(tmp_path / "tiny")
            write_clip(tmp_path / "honest.mp4", [paint((i % 8, 3, "red")) for i in range(50)])
            daemon = Daemon(tmp_path, CONFIG.format(directory=tmp_path, more=more), files=files)
            running.callback(daemon.kill)
            members.write_text(str(daemon.process.pid))
            daemon.ready()
            honest = Honest(daemon.endpoint)
            running.callback(honest.close)
            return Victim(tmp_path, daemon, honest)

        yield start
