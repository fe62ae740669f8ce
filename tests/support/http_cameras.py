"""Cameras over HTTP that answer with one thing, and RTSP cameras that refuse with one status."""

from __future__ import annotations

import base64
import http.server
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["HttpCamera", "rtsp_refusing"]


class HttpCamera(http.server.ThreadingHTTPServer):
    """Answers each path with the status, headers and body in `answers`."""

    daemon_threads = True

    def __init__(self, *, user: str = "", password: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []
        self.expected = base64.b64encode(f"{user}:{password}".encode()).decode() if user else ""
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HttpCamera

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        status, headers, body = self.server.answers.get(self.path, (404, {}, b""))
        if self.server.expected and given != self.server.expected:
            status, headers, body = 401, {"WWW-Authenticate": 'Basic realm="camera"'}, b""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def rtsp_refusing(status: str) -> Iterator[str]:
    """Run an RTSP server that answers every request with a status; yields its URL."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            lines = iter(self.rfile.readline, b"")
            number = b""
            for line in lines:
                if line.lower().startswith(b"cseq:"):
                    number = line.partition(b":")[2].strip()
                if not line.strip():
                    self.wfile.write(b"RTSP/1.0 %s\r\nCSeq: %s\r\n\r\n" % (status.encode(), number))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"rtsp://127.0.0.1:{server.server_address[1]}/camera"
        server.shutdown()
        thread.join()
