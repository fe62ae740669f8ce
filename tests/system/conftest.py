"""Real models as bundles, made once per session by the commands that a user types."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.debian import make_debian, unmet

__all__ = ["qzd_tools"]


def qzd_tools(*arguments: object) -> None:
    """Run `qzd-tools`; what it printed is shown when it fails."""
    command = [sys.executable, "-c", "from qzd_tools.cli import main; main()", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"


@pytest.fixture(scope="session")
def yolox_int8(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """YOLOX-nano, converted and quantized."""
    bundles = tmp_path_factory.mktemp("bundles")
    qzd_tools("convert", data / "models/yolox_nano.onnx", "-o", bundles / "yolox")
    calibration = data / "coco/calibration/instances.json"
    qzd_tools("quantize", bundles / "yolox", "--annotations", calibration, "-o", bundles / "int8")
    return bundles / "int8"


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Install the smallest Debian there is in a folder."""
    if reason := unmet("debootstrap"):
        pytest.skip(reason)
    root = make_debian(tmp_path_factory.mktemp("debian") / "root")
    yield root
    shutil.rmtree(root)
