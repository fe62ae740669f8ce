"""The examples behave as programs do: they say what is wrong, and fail."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "python"


def run(name: str, *arguments: object) -> tuple[int, str]:
    """Run an example to its end; returns its exit code and stderr."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def presence() -> ModuleType:
    spec = importlib.util.spec_from_file_location("presence", EXAMPLES / "presence.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("send.py", ["nosuch.mp4", "gate", "ipc:///tmp/nobody"], "nosuch.mp4: cannot be read as a video"),
        ("send.py", [], "usage: python send.py VIDEO STREAM [ENDPOINT]"),
        ("infer.py", ["nosuch.png"], "nosuch.png: No such file or directory"),
        ("infer.py", [__file__], "neither JPEG nor PNG"),
        ("subscribe.py", ["nonsense"], "nonsense: cannot connect"),
        ("presence.py", ["gate"], "usage: python presence.py STREAM LABEL [ENDPOINT]"),
        ("presence.py", ["gate", "person", "nonsense"], "nonsense: cannot connect"),
    ],
)
def test_example_when_used_wrongly_says_so_and_fails(name: str, arguments: list[str], expected: str) -> None:
    code, said = run(name, *arguments)
    assert (code, expected in said) == (1, True), said


def test_infer_when_no_daemon_runs_says_so(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    code, said = run("infer.py", tmp_path / "image.png", f"ipc://{tmp_path}/nobody")
    assert (code, "no answer in 5 s; does qzd run" in said) == (1, True), said


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([(0, True)], []),
        ([(0, True), (1, True)], [(1, True)]),
        ([(0, True), (1, False), (2, True), (3, False)], []),
        ([(0, True), (1, True), (2, False), (4, True), (8, False)], [(1, True)]),
        ([(0, True), (1, True), (2, False), (6, False), (7, False)], [(1, True), (7, False)]),
    ],
    ids=["once", "arrives", "flickers", "stays", "leaves"],
)
def test_presence_changes_only_after_its_hold_off(
    presence: ModuleType, frames: list[tuple[float, bool]], expected: list[tuple[float, bool]]
) -> None:
    tried = presence.Presence()
    changes = [(at, tried.present) for at, found in frames if tried.feed(found, at)]
    assert changes == expected
