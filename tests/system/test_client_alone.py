"""`qzd-client` in an environment of its own: what is installed, its size, its tests, a subscriber."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.processes import Daemon
from support.tiny_model import paint
from support.videos import write_clip

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
MOST_BYTES = 15e6
SUBSCRIBER = """
from qzd_client import Client, Detections

with Client("{endpoint}", streams=["clip"]) as client:
    for event in client:
        if isinstance(event, Detections) and event.outcome == "ok":
            for box in event.detections:
                print(event.stream, box.label, box.score, box.box)
            break
"""
CONFIG = """
[publish]
bind = ["ENDPOINT"]
[models.tiny]
bundle = "{bundle}"
device = "CPU"
[streams.clip]
source = "{source}"
model = "tiny"
loop = true
max_fps = 20
"""


def run(*command: object, cwd: Path | None = None) -> str:
    """Run a command to its end, without what this process has on its path; return what it prints."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=clean, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


def interpreter(version: str) -> Path:
    """Find a CPython of this version on the path or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    folders = [Path(folder) for folder in os.get_exec_path()]
    places = [
        *(folder / f"python{version}" for folder in folders),
        *pyenv.glob(f"versions/{version}.*/bin/python"),
    ]
    code = "import sys; print(sys.implementation.name, *sys.version_info[:2])"
    for place in filter(Path.is_file, places):
        done = subprocess.run([place, "-c", code], capture_output=True, text=True, check=False)
        if done.stdout.split() == ["cpython", *version.split(".")]:
            return place
    pytest.skip(f"no CPython {version} is installed: neither python{version} on the path nor in {pyenv}")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", directory, ROOT / "client")
    (built,) = directory.glob("*.whl")
    return built


@pytest.mark.parametrize("version", VERSIONS)
def test_client_when_installed_alone_passes_its_tests_and_receives(
    version: str, wheel: Path, tmp_path: Path, daemon: Callable[..., Daemon], tiny_bundle: Path
) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    uv = Path(sys.executable).parent / "uv"
    run(uv, "venv", "--quiet", "--python", interpreter(version), tmp_path / "venv")
    run(uv, "pip", "install", "--quiet", "--python", python, wheel)

    installed = json.loads(run(uv, "pip", "list", "--python", python, "--format", "json"))
    assert {package["name"] for package in installed} == {"qzd-client", "msgspec", "pyzmq"}
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    size = sum(file.stat().st_size for file in packages.rglob("*") if file.is_file())
    print(f"CPython {version}: {installed}, {size / 1e6:.1f} MB")
    assert size < MOST_BYTES

    write_clip(tmp_path / "clip.mp4", [paint((1, 2, "red"))] * 10)
    process = daemon(CONFIG.format(bundle=tiny_bundle, source=tmp_path / "clip.mp4")).ready()
    printed = run(python, "-c", SUBSCRIBER.format(endpoint=process.endpoint), cwd=tmp_path)
    assert printed.startswith("clip red ")

    run(uv, "pip", "install", "--quiet", "--python", python, "pytest>=8.3", "hypothesis>=6.100")
    config = ("-c", ROOT / "client" / "pyproject.toml", "--confcutdir", ROOT / "tests" / "client")
    print(
        run(python, "-m", "pytest", "-q", *config, ROOT / "tests" / "client", cwd=tmp_path).splitlines()[-1]
    )
