"""Serve metrics and health over HTTP, read-only.

| path | answer |
| --- | --- |
| `/metrics` | Prometheus text |
| `/v2/health/live` | 200 while the process works, 503 if it should be restarted |
| `/v2/health/ready` | 200 while everything in the configuration is served, else 503 with the reasons |

The health paths are those of the KServe protocol.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from qzd_daemon.config.load import split_address
from qzd_ext.errors import EndpointError

__all__ = ["Http"]

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5.0  # of a whole connection, however slowly its bytes come
LOOK_SECONDS = 0.25
MAX_CONNECTIONS = 16  # one more takes the place of the oldest

Problems = Callable[[], Sequence[str]]


class Http:
    """Serve until `close`.

    Parameters
    ----------
    listen : str
        `ADDRESS:PORT`; port 0 chooses one.
    registry : CollectorRegistry
    live, ready : callable
        Return what is wrong now; empty if nothing is.

    Attributes
    ----------
    address : str
        `ADDRESS:PORT`, as bound.

    Raises
    ------
    EndpointError
        The address cannot be bound.
    """

    def __init__(self, listen: str, registry: CollectorRegistry, live: Problems, ready: Problems) -> None:
        host, port = split_address(listen)
        try:
            self._server = _Server(host, port, registry, {"live": live, "ready": ready})
        except (OSError, TypeError) as error:  # TypeError: a host that cannot be encoded
            raise _cannot_listen(listen, error) from error
        bound = self._server.server_address[1]
        self.address = f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"
        serve = functools.partial(self._server.serve_forever, LOOK_SECONDS)
        self._thread = threading.Thread(target=serve, name="qzd-http", daemon=True)

    def start(self) -> None:
        """Start to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop to answer."""
        if self._thread.ident is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def _cannot_listen(listen: str, error: OSError | TypeError) -> EndpointError:
    in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
    why = "the address is in use" if in_use else getattr(error, "strerror", None) or error
    return EndpointError(
        f"[http] listen = {listen!r}: {why}",
        wanted="an address of this machine and a free port",
        fix="stop the process that uses it, or choose another address",
    )


class _Server(ThreadingHTTPServer):
    """Run one thread per connection, for at most MAX_CONNECTIONS that are TIMEOUT_SECONDS old at most."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, health: dict[str, Problems]
    ) -> None:
        self.registry = registry
        self.health = health
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._since: dict[socket.socket, float] = {}  # open connections, the oldest first
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            _interrupt(next(iter(self._since.copy()), None))
            if not self._free.acquire(timeout=LOOK_SECONDS):
                self.shutdown_request(request)
                return
        self._since[request] = time.monotonic()
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread could be started
            del self._since[request]
            self._free.release()
            self.shutdown_request(request)
            log.warning("HTTP: a request was not answered, since no thread could be started")

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._since.pop(request, None)
            self._free.release()

    def service_actions(self) -> None:
        """Interrupt the connections that are too old; the base class calls this every LOOK_SECONDS."""
        now = time.monotonic()
        for request, since in self._since.copy().items():
            if now - since > TIMEOUT_SECONDS:
                _interrupt(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        log.debug("HTTP: a client disconnected", exc_info=True)

    def server_bind(self) -> None:
        """Bind as the base class does, but without a lookup of the host's name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


def _interrupt(request: socket.socket | None) -> None:
    """End the reads and writes of the thread that serves a connection."""
    if request is not None:
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = TIMEOUT_SECONDS
    server_version = "qzd"
    sys_version = ""

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/metrics":
                encode, kind = choose_encoder(self.headers.get("Accept", ""))
                self._answer(HTTPStatus.OK, kind, encode(self.server.registry))
            case "/v2/health/live":
                self._answer_health("live")
            case "/v2/health/ready":
                self._answer_health("ready")
            case _:
                text = "not found; try /metrics, /v2/health/live or /v2/health/ready\n"
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", text.encode())

    do_HEAD = do_GET  # noqa: N815

    def _answer_health(self, what: str) -> None:
        problems = list(self.server.health[what]())
        status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
        body = json.dumps({what: not problems, "problems": problems}, ensure_ascii=False)
        self._answer(status, "application/json", f"{body}\n".encode())

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:  # noqa: A002 - the base class's name
        log.debug("HTTP: " + format, *values)
