"""A real HTTP server on loopback whose manners are chosen by the first part of the path.

`/whole/NAME` behaves; the others do what their names say. What it serves is in `files`; what it was asked
is in `requests`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Mirror", "serve"]


class Mirror(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.over = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """Ignore a client that hangs up."""


@contextlib.contextmanager
def serve() -> Iterator[Mirror]:
    with Mirror() as mirror:
        thread = threading.Thread(target=mirror.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield mirror
        finally:
            mirror.over.set()
            mirror.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Mirror

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        # a proxy is asked for whole addresses
        path = self.path.split("/", 3)[3] if self.path.startswith("http://") else self.path[1:]
        manner, _, name = path.partition("/")
        self.server.requests.append((path, self.headers.get("Range")))
        self.close_connection = True
        content = self.server.files.get(name)
        if content is None:
            self.send_error(404)
            return
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        getattr(self, f"_{manner}", self._whole)(content, start, name)

    def _send(self, body: bytes, start: int, total: int, length: int | None = None) -> None:
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if length is None or length >= 0:
            self.send_header("Content-Length", str(total - start if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _whole(self, content: bytes, start: int, name: str) -> None:
        if start >= len(content):
            self.send_error(416)
            return
        self._send(content[start:], start, len(content))

    def _third(self, content: bytes, start: int, name: str) -> None:
        """Says how long it is and hangs up after a third."""
        self._send(content[start:][: len(content) // 3], start, len(content))

    def _stall(self, content: bytes, start: int, name: str) -> None:
        """Half of what is asked for, then nothing, but the line stays open."""
        self._send(content[start:][: len(content) // 2], start, len(content))
        self.server.over.wait(10)

    def _longer(self, content: bytes, start: int, name: str) -> None:
        self._send(content, 0, len(content), len(content) + 10)

    def _endless(self, content: bytes, start: int, name: str) -> None:
        """No length, and more than there should be."""
        self._send(content * 20, 0, len(content), -1)

    def _norange(self, content: bytes, start: int, name: str) -> None:
        """Knows no ranges: hangs up in the middle the first time, then sends all of it."""
        first = sum(path.startswith("norange") for path, _ in self.server.requests) == 1
        self._send(content[: len(content) // 2] if first else content, 0, len(content))

    def _elsewhere(self, content: bytes, start: int, name: str) -> None:
        """Answers a range with another one."""
        if start:
            self._send(content[1:], 1, len(content))
        else:
            self._third(content, 0, name)

    def _garbled(self, content: bytes, start: int, name: str) -> None:
        self._send(bytes(len(content) - start), start, len(content))

    def _busy(self, content: bytes, start: int, name: str) -> None:
        """503 once, then well."""
        if sum(path.startswith("busy") for path, _ in self.server.requests) == 1:
            self.send_error(503)
        else:
            self._whole(content, start, name)

    def _broken(self, content: bytes, start: int, name: str) -> None:
        self.send_error(500)

    def _moved(self, content: bytes, start: int, name: str) -> None:
        self.send_response(302)
        self.send_header("Location", f"/whole/{name}")
        self.send_header("Content-Length", "0")
        self.end_headers()
