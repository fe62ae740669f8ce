"""kill -9 of the daemon, and of a client, at random moments: what is known afterwards is right.

Messages are numbered, so every message of an epoch is accounted for: it came, or it is in exactly one Gap, or
it was sent after the last word of an epoch that was cut off.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qzd_client import messages
from qzd_client.subscriber import Client, Detections, Event, Gap, Restarted
from support.configuration import model, publish, sockets, stream
from support.processes import Daemon
from support.tiny_model import paint
from support.videos import write_clip

pytestmark = pytest.mark.system

KILLS = 50  # of the daemon, and as many of a client
SEED = 7
CONFIG = (
    publish(heartbeat_ms=50)
    + sockets("control")
    + model()
    + stream("clip", "{source}", loop=True, max_fps=200)
)
TOPIC = messages.detections_topic("clip", "tiny")
PROGRAM = """
import sys
from qzd_daemon.ctl.tail import _json_line
from qzd_client.subscriber import Client
with Client(sys.argv[1], control=sys.argv[2]) as client:
    for event in client:
        print(_json_line(event), flush=True)
"""


@pytest.fixture
def config(tiny_bundle: Path, tmp_path: Path) -> str:
    clip = write_clip(tmp_path / "clip.mp4", [paint((i % 8, 0, "red")) for i in range(100)])
    return CONFIG.format(directory=tmp_path, bundle=tiny_bundle, source=clip)


class Account:
    """What a client was told of one topic, epoch by epoch."""

    def __init__(self) -> None:
        self.epochs: dict[str, list[int]] = {}
        self._epoch = ""

    def note(self, event: Event) -> None:
        match event:
            case Restarted():
                assert event.before == self._epoch or not self._epoch
                self._epoch = event.epoch
            case Detections():
                assert not self._epoch or event.epoch == self._epoch, "a restart was not told"
                self._epoch = event.epoch
                self._seqs().append(event.seq)
            case Gap() if event.topic == TOPIC:
                self._seqs().extend(range(event.first, event.last + 1))

    def _seqs(self) -> list[int]:
        return self.epochs.setdefault(self._epoch, [])

    def is_complete(self, first: str | None) -> bool:
        """Whether each seq was accounted for once; from 1 in all epochs but the first."""
        return all(
            seqs == list(range(seqs[0] if epoch == first else 1, seqs[-1] + 1))
            for epoch, seqs in self.epochs.items()
        )


def hear(client: Client, account: Account, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if (event := client.receive(left)) is not None:
            account.note(event)


def test_client_when_the_daemon_is_killed_accounts_for_every_message_of_every_epoch(
    daemon: Callable[..., Daemon], config: str, tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    account = Account()
    epochs = 0
    with Client(f"ipc://{tmp_path}/detections") as client:
        for _ in range(KILLS):
            process = daemon(config)
            known = len(account.epochs)
            end = time.monotonic() + 30
            while len(account.epochs) == known:
                assert time.monotonic() < end, process.log
                hear(client, account, 0.1)
            hear(client, account, chance.random() / 2)
            process.kill()
            epochs += 1
            hear(client, account, 0.05)
    assert len(account.epochs) == epochs
    assert account.is_complete(next(iter(account.epochs)))


def events_of(client: subprocess.Popen[str]) -> Iterator[dict[str, object]]:
    assert client.stdout is not None
    for line in client.stdout:
        if line.endswith("\n"):  # else it was cut off
            yield json.loads(line)


def test_client_when_killed_and_started_again_has_a_snapshot_without_a_hole_or_a_double(
    daemon: Callable[..., Daemon], config: str, tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    process = daemon(config).ready()
    for _ in range(KILLS):
        command = [sys.executable, "-c", PROGRAM, process.endpoint, f"ipc://{tmp_path}/control"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            time.sleep(0.4 + chance.random())
            client.kill()
            told = list(events_of(client))
        assert not [e for e in told if e.get("event")], "a gap or a restart"
        seqs = [int(str(e["seq"])) for e in told if e["schema"] == "qzd.detections/1"]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs))) if seqs else True
    with Client(process.endpoint, control=f"ipc://{tmp_path}/control") as last:
        first = [last.receive(10) for _ in range(3)]
    assert {type(event).__name__ for event in first} == {"ModelState", "StreamState", "Detections"}
    assert process.stop() == 0
