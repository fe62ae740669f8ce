"""Each block of code in docs/client.md runs, and prints what it should, against a real daemon."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qzd_client.curve import write_pair
from support.processes import Daemon
from support.tiny_model import encode, paint, write_tiny_bundle
from support.videos import write_clip

PAGE = Path(__file__).resolve().parents[2] / "docs" / "client.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
SECONDS = 60  # a block that prints nothing else by then has failed

CONFIG = """
[publish]
bind = ["ENDPOINT", "tcp://127.0.0.1:*"]
heartbeat_ms = 100
[control]
bind = ["ipc://{directory}/control"]
[inference]
bind = ["ipc://{directory}/inference"]
[ingest]
bind = ["ipc://{directory}/ingest"]
[security]
server_key = "{directory}/server.key"
authorized_keys = "{directory}/keys"
[models.ssd]
bundle = "{directory}/tiny"
device = "CPU"
[streams.gate]
source = "{directory}/clip.mp4"
model = "ssd"
loop = true
max_fps = 20
[streams.yard]
source = "ingest://"
model = "ssd"
"""

PRINTED = (
    r"gate red 0\.9\d+ \(",
    r"gate \d+ 1 boxes",
    r"gate \d+ ok",
    r"copy gate\.pub to",
    r"(Detections|StreamState)\(.*'gate'",
    r"(?s)gate running \d+.*qzd/1/detections/gate/ssd/ \{.*usage ",
    r"ok \[\('red', 1\.0",
    r"frame 0 is queued",
    r"\d+ gate ok",
)
"""What each block prints, in the order of the page."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("page")
    write_tiny_bundle(directory / "tiny")
    write_clip(directory / "clip.mp4", [paint((1, 2, "red"))] * 10)
    write_pair(directory / "server.key")
    (directory / "keys").mkdir()
    (directory / "keys" / "gate.pub").write_bytes(write_pair(directory / "gate.key").read_bytes())
    process = Daemon(directory, CONFIG.format(directory=directory)).ready()
    yield process
    process.kill()


def run_until_printed(code: str, expected: str, directory: Path) -> str:
    """Run a block until it has printed what is expected, or ends; return everything that it printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    printed = ""
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        limit = threading.Timer(SECONDS, process.kill)
        limit.start()
        try:
            for line in process.stdout:
                printed += line
                if re.search(expected, printed):
                    break
        finally:
            limit.cancel()
            process.kill()
    return printed


def test_page_has_a_block_for_each_expectation() -> None:
    assert len(BLOCKS) == len(PRINTED)


@pytest.mark.parametrize(
    ("code", "expected"), list(zip(BLOCKS, PRINTED, strict=False)), ids=range(len(PRINTED))
)
def test_block_of_the_page_prints_what_it_should(
    served: Daemon, tmp_path: Path, code: str, expected: str
) -> None:
    directory = Path(served.endpoint.removeprefix("ipc://")).parent
    (tmp_path / "street.png").write_bytes(encode(paint((1, 2, "red"))))
    if "Keys(" in code:  # the only one over TCP
        (tcp,) = re.findall(r"tcp://127\.0\.0\.1:\d+", served.log)[:1]
        code = code.replace("tcp://127.0.0.1:5561", tcp)
        for name, found in (("gate.key", "gate.key"), ("qzd.pub", "server.pub")):
            (tmp_path / name).write_bytes((directory / found).read_bytes())
            (tmp_path / name).chmod(0o600)
    code = code.replace("tcp://127.0.0.1:5561", served.endpoint).replace(
        "ipc:///run/qzd", f"ipc://{directory}"
    )
    assert re.search(expected, run_until_printed(code, expected, tmp_path))
