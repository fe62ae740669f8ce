"""Serve metrics, health and the page over HTTP, read-only.

| path | answer |
| --- | --- |
| `/metrics` | Prometheus text |
| `/v2/health/live` | 200 while the process works, 503 if it should be restarted |
| `/v2/health/ready` | 200 while everything in the configuration is served, else 503 with the reasons |

Every other path is answered by `page`, if there is one. The health paths are those of the KServe protocol.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import hmac
import ipaddress
import json
import logging
import select
import socket
import socketserver
import stat
import threading
import time
from collections.abc import Callable, Generator, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from qzd_daemon.config.load import split_address
from qzd_daemon.monitoring.reply import HEADERS, Reply, Stream
from qzd_daemon.system.threads import NamedThread
from qzd_ext.errors import ConfigError, EndpointError

__all__ = ["Answer", "Http", "read_token"]

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5.0  # of a whole connection, however slowly its bytes come
LOOK_SECONDS = 0.25
MAX_CONNECTIONS = 16  # one more takes the place of the oldest
TOKEN_CHARACTERS = 16
MAX_STREAMS = 64  # connections that stay open: server-sent events, MJPEG

Problems = Callable[[], Sequence[str]]
Answer = Callable[[str], Reply | Stream | None]


class Http:
    """Serve until `close`.

    Parameters
    ----------
    listen : str
        `ADDRESS:PORT`; port 0 chooses one.
    registry : CollectorRegistry
    live, ready : callable
        Return what is wrong now; empty if nothing is.
    page : callable, optional
        Returns the answer to a GET of a path with its query; None if there is none.
    token : str, optional
        The password that `page` asks for, under any user name.
    any_host : bool
        Whether `page` answers requests for any host name. Else a web site could have its own name lead here,
        and read the page in its visitor's browser.

    Attributes
    ----------
    address : str
        `ADDRESS:PORT`, as bound.

    Raises
    ------
    EndpointError
        The address cannot be bound.
    """

    def __init__(
        self,
        listen: str,
        registry: CollectorRegistry,
        live: Problems,
        ready: Problems,
        page: Answer | None = None,
        *,
        token: str | None = None,
        any_host: bool = False,
    ) -> None:
        host, port = split_address(listen)
        try:
            self._server = _Server(host, port, registry, {"live": live, "ready": ready})
        except (OSError, TypeError) as error:  # TypeError: a host that cannot be encoded
            raise _cannot_listen(listen, error) from error
        bound = self._server.server_address[1]
        self.address = f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"
        self._server.page, self._server.token, self._server.any_host = page, token, any_host
        serve = functools.partial(self._server.serve_forever, LOOK_SECONDS)
        self._thread = NamedThread("qzd-http", serve)

    def start(self) -> None:
        """Start to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop to answer."""
        if self._thread.ident is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.end_streams()
        self._server.server_close()


def read_token(path: Path) -> str:
    """Read the page's token: one line, at least 16 characters.

    Raises
    ------
    ConfigError
        The file cannot be read, or others may read it, or the token is too short.
    """
    try:
        mode, token = path.stat().st_mode, path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigError(
            f"[http] token_file: {path}: cannot be read: {why}", fix="correct the path"
        ) from error
    if len(token) < TOKEN_CHARACTERS or stat.S_IMODE(mode) & 0o007:
        raise ConfigError(
            f"[http] token_file: {path}: the token is too short, or others may read the file",
            wanted=f"{TOKEN_CHARACTERS} characters or more, and mode 0640",
            fix=f"`openssl rand -hex 16 > {path}; chown root:qzd {path}; chmod 640 {path}`",
        )
    return token


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
    page: Answer | None = None
    token: str | None = None
    any_host = False

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, health: dict[str, Problems]
    ) -> None:
        self.registry = registry
        self.health = health
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._since: dict[socket.socket, float] = {}  # open connections, the oldest first
        self._streams: set[socket.socket] = set()
        self.stopping = False
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
            self._end(request)

    def begin_stream(self, request: socket.socket) -> bool:
        """Let a connection stay open, apart from the others; False if there are too many."""
        if len(self._streams) >= MAX_STREAMS:
            return False
        self._streams.add(request)
        if self._since.pop(request, None) is not None:
            self._free.release()
        return True

    def end_streams(self) -> None:
        """End the connections that stay open."""
        self.stopping = True
        for request in self._streams.copy():
            _interrupt(request)

    def _end(self, request: socket.socket) -> None:
        self._streams.discard(request)
        if self._since.pop(request, None) is not None:
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


def _has_left(connection: socket.socket) -> bool:
    """Whether the peer has ended its side; a GET has no body, so nothing else comes."""
    ready, _, _ = select.select([connection], [], [], 0)
    return bool(ready) and not connection.recv(1, socket.MSG_PEEK)


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
                self._answer_page()

    do_HEAD = do_GET  # noqa: N815

    def _answer_page(self) -> None:
        page = self.server.page
        if page is not None and not self._names_this_host():
            text = "use this machine's address, or localhost\n"
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, "text/plain", text.encode())
        elif page is not None and not self._has_token():
            self._answer(HTTPStatus.UNAUTHORIZED, "text/plain", b"a user name and the token are needed\n")
        else:
            self._reply(page(self.path) if page is not None else None)

    def _names_this_host(self) -> bool:
        if self.server.any_host:
            return True
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        try:
            return host == "localhost" or bool(ipaddress.ip_address(host))
        except ValueError:
            return False

    def _has_token(self) -> bool:
        """Source: RFC 7617, Basic; a browser asks for user name and password by itself."""
        if self.server.token is None:
            return True
        kind, _, given = self.headers.get("Authorization", "").partition(" ")
        try:
            _, _, password = base64.b64decode(given, validate=True).partition(b":")
        except ValueError:
            return False
        return kind.lower() == "basic" and hmac.compare_digest(password, self.server.token.encode())

    def _reply(self, reply: Reply | Stream | None) -> None:
        match reply:
            case Reply(status, kind, body):
                self._answer(HTTPStatus(status), kind, body)
            case Stream() if self.command == "HEAD":
                self._answer(HTTPStatus.OK, reply.kind, b"")
            case Stream() if self.server.begin_stream(self.connection):
                self._send_stream(reply)
            case Stream():
                text = f"{MAX_STREAMS} viewers are here already\n"
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", text.encode())
            case None:
                text = "not found; try /metrics, /v2/health/live or /v2/health/ready\n"
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", text.encode())

    def _send_stream(self, stream: Stream) -> None:
        """Send chunks until the reader leaves, or does not take one within TIMEOUT_SECONDS."""
        self._begin(HTTPStatus.OK, stream.kind)
        self.end_headers()
        with contextlib.closing(cast("Generator[bytes]", stream.chunks)) as chunks:
            for chunk in chunks:
                if self.server.stopping or _has_left(self.connection):
                    return
                self.wfile.write(chunk)

    def _answer_health(self, what: str) -> None:
        problems = list(self.server.health[what]())
        status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
        body = json.dumps({what: not problems, "problems": problems}, ensure_ascii=False)
        self._answer(status, "application/json", f"{body}\n".encode())

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self._begin(status, kind)
        self.send_header("Content-Length", str(len(body)))
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", 'Basic realm="qzd", charset="UTF-8"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self, status: HTTPStatus, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in HEADERS.items():
            self.send_header(name, value)

    def log_message(self, format: str, *values: object) -> None:  # noqa: A002 - the base class's name
        log.debug("HTTP: " + format, *values)
