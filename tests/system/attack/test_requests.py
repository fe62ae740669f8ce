"""Callers that send more than the memory holds."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from support.raw_peer import RawPeer
from support.victim import Victim

pytestmark = pytest.mark.system

MORE = """
[inference]
bind = ["ipc://{directory}/inference"]
max_image_bytes = 34_000_000
"""
HEADER = msgspec.json.encode({"format": "bgr", "width": 3320, "height": 3320})
IMAGE = bytes(3320 * 3320 * 3)
CALLERS = 24
SECONDS = 8.0


def _attack(endpoint: str, send: Callable[[RawPeer], None]) -> None:
    """Send from CALLERS at once, for SECONDS, and read no answer; reconnect when disconnected."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), contextlib.closing(RawPeer(endpoint)) as peer:
                while not stop.is_set():
                    send(peer)

    threads = [threading.Thread(target=run) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    time.sleep(SECONDS)
    stop.set()
    for thread in threads:
        thread.join()


def _send_image(peer: RawPeer) -> None:
    peer.send(b"1", more=True)
    peer.send(HEADER, more=True)
    peer.send(IMAGE)


def _send_without_end(peer: RawPeer) -> None:
    peer.send(IMAGE, more=True)


@pytest.mark.parametrize(
    "send", [_send_image, _send_without_end], ids=["images", "a message without an end"]
)
def test_callers_that_fill_the_memory_do_not_end_the_daemon(
    victim: Callable[..., Victim], tmp_path: Path, send: Callable[[RawPeer], None]
) -> None:
    attacked = victim(MORE.format(directory=tmp_path))
    _attack(attacked.daemon.socket_of("inference"), send)
    attacked.check()
    assert "callers and senders are disconnected" in attacked.daemon.log
