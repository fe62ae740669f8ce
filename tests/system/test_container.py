"""The image, built from docker/Dockerfile and run as users do: locked down, healthy, throttled, stopped."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from qzd_tools.demo.dataset import CALIBRATION_SEED, write_clip, write_dataset
from qzd_tools.demo.parts import LABELS
from support.configuration import model, publish, stream, table
from support.debian import run, unmet
from support.waiting import until
from system.conftest import qzd_tools

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
BASE = "docker.io/library/debian:bookworm-slim"
MOST_MEGABYTES = 450
# What a nested engine without systemd takes: runc knows hybrid cgroups, and root may not raise these limits.
ENGINE = ("podman", "--log-level", "fatal", "--runtime", "runc")
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
NESTED = '''
[engine]
runtime = "runc"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
'''
LOCKED = ("--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--network", "none")
CONFIG = (
    publish("ipc:///run/qzd/detections")
    + table("control", bind=("ipc:///run/qzd/control",))
    + table("http", listen="127.0.0.1:9178")
    + model("parts", "/var/lib/qzd/models/parts-int8")
    + stream("belt", "/var/lib/qzd/models/belt.mp4", "parts", when_behind="wait", loop=True)
)


@pytest.fixture(scope="module")
def image(request: pytest.FixtureRequest) -> Iterator[str]:
    """Built from the Dockerfile as it is."""
    if reason := unmet("podman", "buildah", "runc"):
        pytest.skip(reason)
    if not run("podman", "images", "-q", BASE):
        root = request.getfixturevalue("debian")
        subprocess.run(f"tar -C {root} -c . | podman import - {BASE}", shell=True, check=True)
    name = f"localhost/qzd-test:{secrets.token_hex(4)}"
    # where this machine's own authorities are in the base image, pip is told to trust them
    trust = ("--env", f"PIP_CERT={os.environ['PIP_CERT']}") if "PIP_CERT" in os.environ else ()
    build = ("buildah", "bud", "--format", "docker", "--isolation", "chroot", *trust)
    run(*build, "-f", ROOT / "docker/Dockerfile", "-t", name, ROOT, timeout=1500)
    yield name
    run("podman", "rmi", "--force", name)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the demo's bundle in INT8, and its belt."""
    directory = tmp_path_factory.mktemp("models")
    write_dataset(directory / "calibration", 30, CALIBRATION_SEED)
    write_clip(directory / "belt.mp4", 50)
    (directory / "parts.txt").write_text("".join(f"{label}\n" for label in LABELS))
    with resources.as_file(resources.files("qzd_tools.demo") / "parts.onnx") as model:
        qzd_tools(
            *("convert", model, "-o", directory / "parts", "--head", "yolo_v8", "--resize", "letterbox"),
            *("--labels", directory / "parts.txt", "--anchor", "center", "--pad", "114"),
            *("--color", "rgb", "--mean", "0", "--scale", "255"),
        )
    calibration = directory / "calibration/instances.json"
    qzd_tools("quantize", directory / "parts", "-o", directory / "parts-int8", "--annotations", calibration)
    (directory / "qzd.toml").write_text(CONFIG)
    run("chmod", "-R", "a+rX", directory)
    return directory


@pytest.fixture
def composed(image: str, models: Path, tmp_path: Path) -> Iterator[str]:
    """docker/compose.yaml is up; the name of its project."""
    if reason := unmet("iptables"):
        pytest.skip(reason)
    shutil.copy(ROOT / "docker/compose.yaml", tmp_path)
    shutil.copytree(models, tmp_path / "models")
    everywhere = 'listen = "0.0.0.0:9178"\ninsecure = true'
    (tmp_path / "qzd.toml").write_text(CONFIG.replace('listen = "127.0.0.1:9178"', everywhere))
    (tmp_path / "containers.conf").write_text(NESTED)
    project = f"qzd-{uuid.uuid4()}"
    environment = {**os.environ, "CONTAINERS_CONF": str(tmp_path / "containers.conf"), "QZD_IMAGE": image}
    compose = (Path(sys.executable).parent / "podman-compose", "-p", project)
    run(*compose, "up", "-d", cwd=tmp_path, env=environment)
    yield project
    run(*compose, "stop", cwd=tmp_path, env=environment)
    codes = engine("ps", "--all", "--filter", f"name={project}", "--format", "{{.ExitCode}}").split()
    run(*compose, "down", "--volumes", cwd=tmp_path, env=environment)
    assert codes
    assert "137" not in codes, "a container did not end by SIGTERM, and was killed"


@pytest.fixture
def serve(image: str, models: Path) -> Iterator[Callable[..., str]]:
    """Run the daemon in a container of its own, with options for the engine; returns the container's name."""
    volume = f"qzd-{uuid.uuid4()}"
    started: list[str] = []

    def start(*options: str) -> str:
        name = f"qzd-{uuid.uuid4()}"
        started.append(name)
        mounts = ("-v", f"{volume}:/run/qzd", "-v", f"{models}:/var/lib/qzd/models:ro")
        config = ("-v", f"{models}/qzd.toml:/etc/qzd/qzd.toml:ro", "--tmpfs", "/tmp")
        engine("run", "-d", "--name", name, *LIMITS, *LOCKED, *mounts, *config, *options, image)
        until(lambda: "READY" in engine("logs", name), 120)
        return name

    yield start
    for name in started:
        engine("rm", "--force", name)
    engine("volume", "rm", "--force", volume)


def engine(*command: str, check: bool = True) -> str:
    return run(*ENGINE, *command, check=check, timeout=120)


def subscribe(image: str, daemon: str, count: int) -> list[dict[str, Any]]:
    """Return what a subscriber in another container receives; they share only the sockets."""
    tail = ("--endpoint", "ipc:///run/qzd/detections", "tail", "--json", "--count", str(count))
    said = engine(
        *("run", "--rm", *LIMITS, *LOCKED, "--volumes-from", daemon, "--entrypoint", "qzdctl", image, *tail)
    )
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("schema") == "qzd.detections/1"]


def test_image_is_small_unprivileged_and_labelled(image: str) -> None:
    found = json.loads(run("podman", "image", "inspect", image))[0]
    megabytes = found["Size"] / 1e6
    print(f"the image has {megabytes:.0f} MB")
    assert megabytes <= MOST_MEGABYTES
    assert found["Config"]["User"] == "10001:10001"
    assert found["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert found["Config"]["Entrypoint"] == ["qzd"]
    inside = engine("run", "--rm", *LIMITS, "--network", "none", "--entrypoint", "ls", image, "/usr/bin")
    assert {"gcc", "cc", "make", "apt-get", "pip3"}.isdisjoint(inside.split())


def test_image_finds_devices_as_any_user(image: str) -> None:
    stranger = ("--user", "4242:4242", "--entrypoint", "python3")
    assert "CPU" in engine("run", "--rm", *LIMITS, *LOCKED, *stranger, image, "-I", "-c", DEVICES)


DEVICES = """
import sys
sys.path.insert(0, "/usr/local/lib/qzd")
from qzd_ext.runner import available_devices
print(available_devices())
"""


def test_container_serves_the_demo_to_another_is_healthy_and_stops(
    image: str, serve: Callable[..., str]
) -> None:
    name = serve()
    messages = subscribe(image, name, 60)
    assert {message["outcome"] for message in messages} == {"ok"}
    labels = {box["label"] for message in messages for box in message["detections"]}
    assert labels <= set(LABELS)
    assert labels
    run(*ENGINE, "healthcheck", "run", name)
    engine("stop", "--time", "25", name)
    state = json.loads(engine("inspect", name))[0]["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    assert "stopped" in engine("logs", name)


def test_container_with_half_a_processor_takes_one_thread(image: str, serve: Callable[..., str]) -> None:
    rates = {}
    for cpus in ("0.5", "2"):
        name = serve("--cpus", cpus)
        threads = engine("exec", name, "python3", "-I", "-c", USABLE)
        first = answered(name)
        time.sleep(6)
        rates[cpus] = (answered(name) - first) / 6
        print(f"--cpus {cpus}: {threads.strip()} thread(s), {rates[cpus]:.0f} frames/s")
        assert int(threads) == (1 if cpus == "0.5" else min(2, os.cpu_count() or 1))
        engine("stop", "--time", "25", name)
    assert 0 < rates["0.5"] < rates["2"]


USABLE = """
import sys
sys.path.insert(0, "/usr/local/lib/qzd")
from qzd_ext.cpus import usable_cpus
print(usable_cpus())
"""


def answered(name: str) -> int:
    """Frames that the daemon has answered."""
    status = json.loads(engine("exec", name, "qzdctl", "status", "--json"))
    return int(sum(n for topic, n in status["published"].items() if "/detections/" in topic))


def test_compose_serves_a_subscriber_and_a_scraper(composed: str) -> None:
    daemon, subscriber = f"{composed}_qzd_1", f"{composed}_subscriber_1"
    until(lambda: "READY" in engine("logs", daemon))
    until(lambda: '"outcome":"ok"' in engine("logs", subscriber))
    run(*ENGINE, "healthcheck", "run", daemon)
    with urllib.request.urlopen("http://127.0.0.1:9178/v2/health/ready", timeout=10) as answer:
        assert answer.status == 200
    given = json.loads(engine("inspect", daemon))[0]["HostConfig"]
    assert (given["NanoCpus"], given["Memory"], given["PidsLimit"]) == (2_000_000_000, 2**30, 512)
    assert given["ReadonlyRootfs"]


def test_config_that_is_wrong_ends_the_container_with_its_reason(
    image: str, models: Path, tmp_path: Path
) -> None:
    config = tmp_path / "qzd.toml"
    config.write_text(CONFIG.replace("when_behind", "wen_behind"))
    done = subprocess.run(
        [*ENGINE, "run", "--rm", *LIMITS, *LOCKED, "-v", f"{config}:/etc/qzd/qzd.toml:ro", image],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "did you mean streams.belt.when_behind?" in done.stderr
