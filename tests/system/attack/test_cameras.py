"""Cameras that send pictures and parts which would take all memory."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from support.victim import Victim

pytestmark = pytest.mark.system

MORE = """
[streams.evil]
source = "{address}/stream"
model = "tiny"
"""
PART = b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"


@contextlib.contextmanager
def _camera(parts: list[bytes]) -> Iterator[str]:
    """Serve an MJPEG camera over HTTP that sends these parts again and again."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=x")
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    for part in parts:
                        self.wfile.write(part)
                    time.sleep(0.05)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def _jpeg(side: int) -> bytes:
    return cv2.imencode(".jpg", np.zeros((side, side, 3), np.uint8))[1].tobytes()


def _picture(side: int) -> list[bytes]:
    jpeg = _jpeg(side)
    return [PART % len(jpeg), jpeg, b"\r\n"]


@pytest.mark.parametrize(
    "parts",
    [
        _picture(16_000),
        [PART % 2_000_000_000, _jpeg(64) * 100],
        [*_picture(64) * 30, *_picture(16_000)],
    ],
    ids=["16000 x 16000", "two gigabytes", "small, then vast"],
)
def test_a_camera_that_sends_too_much(victim: Callable[..., Victim], parts: list[bytes]) -> None:
    with _camera(parts) as address:
        attacked = victim(MORE.format(address=address))
        time.sleep(8)
        attacked.check()
        assert attacked.rss < 700 << 20
