"""Validation on a real Dask scheduler with two worker processes, one of them killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from qzd_tools.cli import main
from support.painted_images import write_painted
from support.waiting import until

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
STARTED = "Starting established connection"

pytest.importorskip("distributed")


def start(stack: ExitStack, log: Path, *words: str) -> subprocess.Popen[bytes]:
    """One of Dask's own commands as a process that is ended with the test."""
    module = "distributed.cli.dask_scheduler" if words[0] == "scheduler" else "distributed.cli.dask_worker"
    out = stack.enter_context(log.open("wb"))
    process = subprocess.Popen(
        [sys.executable, "-m", module, *words[1:]],
        stdout=out, stderr=subprocess.STDOUT, env=ENVIRONMENT, cwd=log.parent,
    )  # fmt: skip
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def wait_for(path: Path, text: str) -> None:
    until(lambda: path.exists() and text in path.read_text())

PLUGIN = "libopenvino_intel_cpu_plugin"
"""A library that a process maps when it compiles a model."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Start a scheduler and two workers; returns its address and their processes."""
    with ExitStack() as stack:
        place = tmp_path / "scheduler.json"
        words = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(place))
        scheduler = start(stack, tmp_path / "scheduler.log", "scheduler", *words)
        wait_for(place, "}")
        address = json.loads(place.read_text())["address"]
        common = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(tmp_path))
        logs = [tmp_path / f"worker{i}.log" for i in range(2)]
        workers = [start(stack, log, "worker", address, *common) for log in logs]
        for log in logs:
            wait_for(log, STARTED)
        yield address, [scheduler, *workers]


@pytest.fixture
def bundle(data: Path, tmp_path: Path) -> Path:
    """Convert a real model, which has work enough to be killed in the middle of it."""
    path = tmp_path / "bundle"
    assert main(["convert", str(data / "models" / "yolox_nano.onnx"), "-o", str(path)]) == 0
    return path


def measure(
    bundle: Path, annotations: Path, out: Path, *more: str, stderr: int | None = None
) -> subprocess.Popen[bytes]:
    words = ["validate", str(bundle), "--annotations", str(annotations), "--json", str(out), "--threads", "1"]
    command = [sys.executable, "-m", "qzd_tools.cli", *words, *more]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=stderr)


def figures(path: Path) -> dict[str, object]:
    found = json.loads(path.read_text())
    return {key: found[key] for key in ("metrics", "classes", "curve", "images", "dataset", "device")}


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "tls://127.0.0.1:9", "localhost:abc", "nonsense"])
def test_validate_says_so_when_no_scheduler_answers(
    tiny_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    address: str,
) -> None:
    monkeypatch.setattr("qzd_tools.validate.dask.CONNECT_SECONDS", 0.5)
    annotations = write_painted(tmp_path / "data")
    words = ["validate", str(tiny_bundle), "--annotations", str(annotations)]
    assert main([*words, "--scheduler", address]) == 3
    assert "no scheduler answers" in capsys.readouterr().err


@pytest.mark.system
def test_validate_gives_the_same_figures_when_a_worker_is_killed_in_the_middle(
    data: Path, tmp_path: Path, bundle: Path, cluster: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    address, processes = cluster
    annotations = data / "coco" / "validation" / "instances.json"
    assert measure(bundle, annotations, tmp_path / "here.json").wait() == 0
    relative = [Path(os.path.relpath(path)) for path in (bundle, annotations)]
    run = measure(relative[0], relative[1], tmp_path / "there.json", "--scheduler", address)
    # the second worker has begun when it holds the plugin that runs the model, and is then far from the end
    wait_for_memory(processes[2].pid, PLUGIN, run)
    processes[2].send_signal(signal.SIGKILL)
    assert run.wait() == 0
    assert figures(tmp_path / "there.json") == figures(tmp_path / "here.json")
    lost = (tmp_path / "scheduler.log").read_text()
    assert "Removing worker" in lost or "Remove worker" in lost


@pytest.mark.system
def test_validate_says_so_when_the_scheduler_is_killed_in_the_middle(
    data: Path, tmp_path: Path, bundle: Path, cluster: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    address, processes = cluster
    annotations = data / "coco" / "validation" / "instances.json"
    out = tmp_path / "there.json"
    run = measure(bundle, annotations, out, "--scheduler", address, stderr=subprocess.PIPE)
    wait_for_memory(processes[2].pid, PLUGIN, run)
    processes[0].send_signal(signal.SIGKILL)
    _, said = run.communicate(timeout=90)
    assert run.returncode == 3
    assert b"the scheduler went away" in said
    assert b"Traceback" not in said


def wait_for_memory(process: int, path: str, run: subprocess.Popen[bytes]) -> None:
    """Wait until a process has mapped a file; the run must not be over by then."""
    maps = Path(f"/proc/{process}/maps")
    until(lambda: path in maps.read_text() or run.poll() is not None)
    assert run.poll() is None


@pytest.mark.system
def test_validate_names_the_image_when_a_worker_cannot_read_it(
    tiny_bundle: Path, tmp_path: Path, cluster: tuple[str, list[subprocess.Popen[bytes]]],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    annotations = write_painted(tmp_path / "data", count=20)
    (tmp_path / "data" / "images" / "7.png").write_bytes(b"no picture")
    words = ["validate", str(tiny_bundle), "--annotations", str(annotations), "--scheduler", cluster[0]]
    assert main(words) == 3
    assert "7.png: not an image" in capsys.readouterr().err
