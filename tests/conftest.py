"""Fixtures that all tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from support.processes import Daemon
from support.tiny_model import write_tiny_bundle

# a busy machine is not a failure: no test asserts a time
settings.register_profile("qzd", deadline=None)
settings.load_profile("qzd")

# a shell's background job ignores Ctrl-C, and every process that the tests start would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


SECONDS = {"models": 7200, "system": 1200}
"""How long a test with such a mark may take; the default is in pyproject.toml."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests of real processes and of real models the time that they need."""
    for item in items:
        marks = [mark for mark in SECONDS if item.get_closest_marker(mark)]
        if marks and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SECONDS[marks[0]]))


@pytest.fixture(scope="session")
def data() -> Path:
    """Return the folder of real models, images and videos; skip the test if it does not exist."""
    path = Path(os.environ.get("QZD_DATA", ROOT / ".." / "shared" / "data")).resolve()
    if not path.is_dir():
        pytest.skip(f"no real models and images: {path} does not exist (set QZD_DATA)")
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of a real model that compiles in milliseconds; see `support.tiny_model`."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Start `qzd` with a configuration; every one that was started is killed at the end."""
    started: list[Daemon] = []

    def start(config: str, *options: str, **environment: str) -> Daemon:
        started.append(Daemon(tmp_path, config, *options, files=None, **environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
