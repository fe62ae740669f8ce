"""A subscriber in Node.js, written only from the protocol, with every message held against its schema."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from qzd_client import messages
from support.configuration import model, publish, stream
from support.processes import Daemon
from support.tiny_model import paint
from support.videos import write_clip

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
CONFIG = publish(heartbeat_ms=100, wait_for_subscribers=1) + model() + stream("clip", "{source}")
LOST = range(20, 27)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the example with its packages."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    directory = tmp_path_factory.mktemp("javascript") / "subscriber"
    own = shutil.ignore_patterns("node_modules")
    shutil.copytree(ROOT / "examples" / "javascript", directory, ignore=own)
    done = subprocess.run(
        ["npm", "install", "--no-fund", "--no-audit", "--loglevel=error"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"npm cannot install: {done.stderr[-500:]}")
    return directory / "subscribe.mjs"


class LossyProxy:
    """Hands on all messages except some detections: the gap that must be noticed."""

    def __init__(self, upstream: str) -> None:
        self._context = zmq.Context()
        self._in = self._context.socket(zmq.XSUB)
        self._in.connect(upstream)
        self._out = self._context.socket(zmq.XPUB)
        self._out.bind("tcp://127.0.0.1:*")
        self.endpoint = self._out.getsockopt_string(zmq.LAST_ENDPOINT)
        self._stopping = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._in, zmq.POLLIN)
        poller.register(self._out, zmq.POLLIN)
        while not self._stopping:
            for ready, _ in poller.poll(100):
                frames = ready.recv_multipart()
                if ready is self._out:
                    self._in.send_multipart(frames)
                elif not (frames[0].startswith(b"qzd/1/det") and json.loads(frames[1])["seq"] in LOST):
                    self._out.send_multipart(frames)

    def close(self) -> None:
        self._stopping = True
        self._thread.join()
        self._context.destroy(linger=0)


def test_node_subscriber_when_messages_are_lost_reports_them_and_every_other_is_as_its_schema_says(
    program: Path, daemon: Callable[..., Daemon], tiny_bundle: Path, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [paint((i % 8, 0, "red")) for i in range(60)])
    process = daemon(CONFIG.format(bundle=tiny_bundle, source=clip), "--until-idle").ready()
    proxy = LossyProxy(process.endpoint)
    try:
        done = subprocess.run(
            ["node", program, proxy.endpoint, "--schema", str(ROOT / "docs" / "schema")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        proxy.close()
    assert (done.returncode, done.stderr) == (0, "")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    topic = messages.detections_topic("clip", "tiny")
    assert [e for e in events if e["event"] == "gap"] == [
        {"event": "gap", "topic": topic, "first": LOST.start, "last": LOST.stop - 1}
    ]
    seqs = [e["message"]["seq"] for e in events if e["event"] == "message" and e["topic"] == topic]
    assert seqs == [seq for seq in range(1, 61) if seq not in LOST]
    found = [e["message"]["detections"] for e in events if e["event"] == "message" and e["topic"] == topic]
    labels = {box["label"] for boxes in found for box in boxes}
    assert labels == {"red"}
    assert process.wait() == 0
