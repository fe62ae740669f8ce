"""Callers that send more than the memory holds."""

from __future__ import annotations

import contextlib
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from qzd_client import InferenceClient, RefusedError
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


@pytest.mark.parametrize("send", [_send_image, _send_without_end], ids=["images", "a message without an end"])
def test_callers_that_fill_the_memory_do_not_end_the_daemon(
    victim: Callable[..., Victim], tmp_path: Path, send: Callable[[RawPeer], None]
) -> None:
    attacked = victim(MORE.format(directory=tmp_path))
    _attack(attacked.daemon.socket_of("inference"), send)
    attacked.check()


def _bomb() -> bytes:
    """Return a PNG of 64x64 whose megabyte of data inflates to one gigabyte."""
    deflate = zlib.compressobj(9)
    zeros = bytes(1 << 24)
    data = b"".join(deflate.compress(zeros) for _ in range(64)) + deflate.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + checksum

    size = (64).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("form", "make"),
    [("png", _bomb), ("jpeg", lambda: b"\xff\xd8" + b"\xff" * (32 << 20))],
    ids=["a png that inflates", "a jpeg of fill bytes"],
)
def test_images_that_cost_time_leave_the_decoders_free(
    victim: Callable[..., Victim], tmp_path: Path, form: Literal["png", "jpeg"], make: Callable[[], bytes]
) -> None:
    attacked, image = victim(MORE.format(directory=tmp_path)), make()
    with InferenceClient(attacked.daemon.socket_of("inference"), timeout=20) as caller:
        for _ in range(4):
            with pytest.raises(RefusedError, match=form):
                caller.infer(image, form)
    attacked.check()
