"""`qzdctl tail` as a process, beside a real daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from qzd_client import messages
from support.configuration import model, publish, stream
from support.processes import Daemon
from support.tiny_model import paint
from support.videos import write_clip

CONFIG = publish(wait_for_subscribers=1) + model() + stream("clip", "{source}")
COMMAND = (sys.executable, "-c", "from qzd_daemon.ctl.main import main; main()")


def qzdctl(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.fixture
def served(daemon: Callable[..., Daemon], tiny_bundle: Path, tmp_path: Path) -> Daemon:
    frames = [paint((i % 8, 0, "red" if i % 2 else "blue")) for i in range(20)]
    clip = write_clip(tmp_path / "clip.mp4", frames)
    return daemon(CONFIG.format(bundle=tiny_bundle, source=clip)).ready()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), [f"clip/tiny frame {i}: {'red' if i % 2 else 'blue'}" for i in range(5)]),
        (("--label", "red"), [f"clip/tiny frame {i}: red" for i in (1, 3, 5, 7, 9)]),
        (("--stream", "clip", "--model", "tiny"), [f"clip/tiny frame {i}: " for i in range(5)]),
    ],
)
def test_tail_when_frames_come_prints_a_line_for_each(
    served: Daemon, options: tuple[str, ...], expected: list[str]
) -> None:
    out, err = qzdctl("--endpoint", served.endpoint, "tail", "--count", "5", *options).communicate(timeout=30)
    lines = [line for line in out.splitlines() if not line.startswith("--")]
    assert len(lines) == 5
    for line, part in zip(lines, expected, strict=True):
        assert part in line
    assert err == ""


def test_tail_when_json_is_asked_for_prints_the_messages(served: Daemon) -> None:
    tail = qzdctl("--endpoint", served.endpoint, "tail", "--count", "2", "--json")
    out, _ = tail.communicate(timeout=30)
    published = [json.loads(line) for line in out.splitlines()]
    frames = [m["frame"] for m in published if m["schema"] == "qzd.detections/1"]
    assert (frames, tail.returncode) == ([0, 1], 0)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_tail_when_nobody_speaks_says_so_and_waits(tmp_path: Path, end: signal.Signals) -> None:
    tail = qzdctl("--endpoint", f"ipc://{tmp_path}/nobody", "tail")
    assert tail.stderr is not None
    assert "nobody: nothing listens there" in tail.stderr.readline()
    tail.send_signal(end)
    tail.communicate(timeout=30)
    assert tail.returncode == 4


def test_tail_when_the_endpoint_is_none_names_it() -> None:
    tail = qzdctl("--endpoint", "nonsense", "tail")
    _, err = tail.communicate(timeout=30)
    assert "nonsense: cannot connect" in err
    assert tail.returncode == 3


@pytest.mark.parametrize("arguments", [("tail", "--nonsense"), ("nonsense",), ("tail", "--count", "0")])
def test_qzdctl_when_used_wrongly_exits_with_2(arguments: tuple[str, ...]) -> None:
    tail = qzdctl(*arguments)
    tail.communicate(timeout=30)
    assert tail.returncode == 2


@pytest.mark.parametrize("payload", [b"no JSON", b"{}", b'{"schema":"qzd.stream/1","x":' + b"[" * 3000])
def test_tail_when_what_comes_is_not_of_the_protocol_says_so(tmp_path: Path, payload: bytes) -> None:
    endpoint = f"ipc://{tmp_path}/detections"
    with zmq.Context() as context, context.socket(zmq.XPUB) as other:
        other.linger = 0
        other.bind(endpoint)
        tail = qzdctl("--endpoint", endpoint, "tail")
        for _ in range(4):  # its subscriptions
            assert other.poll(20_000)
            other.recv()
        other.send_multipart([messages.HEARTBEAT.encode(), payload])
        _, err = tail.communicate(timeout=30)
    assert (tail.returncode, err.count("\n")) == (3, 1)
    assert err.startswith("qzdctl: received a message that is not of qzd's protocol: ")
