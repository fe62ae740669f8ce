"""Open every socket that the daemon binds, with its limits and keys, and decide who may connect.

TCP endpoints ask for a CURVE key if the configuration has one; ipc endpoints have mode 0660 instead. One
thread answers ZAP, counts connections, shuts those above the limit, and says who was refused and why.
"""

from __future__ import annotations

import collections
import logging
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import zmq
from zmq.utils.monitor import parse_monitor_message

from qzd_client.curve import read_secret
from qzd_daemon.config.schema import SecurityConfig
from qzd_daemon.system.threads import NamedThread
from qzd_daemon.transport.authorized_keys import AuthorizedKeys
from qzd_daemon.transport.bind import BindOptions, bind
from qzd_daemon.transport.bound_socket import BoundSocket
from qzd_daemon.transport.connections import (
    CURVE_HANDSHAKE_BYTES,
    NULL_HANDSHAKE_BYTES,
    Connections,
    Refusal,
)
from qzd_ext.errors import EndpointError

__all__ = ["Limits", "Listener"]

log = logging.getLogger(__name__)

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
HANDSHAKE_MS = 5000
PEER_PING_MS = 5000  # a peer that is gone without closing its connection is noticed in twice this time
LOOK_MS = 500  # how soon a removed key is noticed
SAY_SECONDS = 10.0  # a reason for refusing is logged once per this time

REASONS: dict[int, tuple[str, str]] = {
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: ("mechanism", "it offers no CURVE key"),
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: ("server_key", "it has a wrong server key"),
}
LEFT = "it left, or was silent, before it had come in, as one does that has no CURVE key"
PENDING_FULL = "too many are connected that have not finished their handshake"
EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one socket takes.

    Attributes
    ----------
    message_bytes : int
        Largest frame of a message; a peer that sends more is disconnected.
    connections : int
        On each endpoint, besides `PENDING` that have not finished their handshake.
    send_hwm, receive_hwm : int
        Messages kept for, and from, each peer.
    """

    message_bytes: int
    connections: int
    send_hwm: int
    receive_hwm: int


class Listener:
    """The context of the daemon's sockets, and the thread that watches them.

    Parameters
    ----------
    security : SecurityConfig
    inherited : mapping
        Files that listen already, by endpoint: systemd has bound them for us.

    Raises
    ------
    DataError
        A key cannot be used.

    Attributes
    ----------
    context : zmq.Context
    refused : Counter
        Connections that were refused, by (name of the socket, reason).
    """

    def __init__(
        self,
        security: SecurityConfig = SecurityConfig(),  # noqa: B008 - frozen
        inherited: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        secret = self._authorised = None
        if security.server_key is not None and security.authorized_keys is not None:
            secret = read_secret(Path(security.server_key))
            self._authorised = AuthorizedKeys(Path(security.authorized_keys))
        self._access = BindOptions(inherited, secret)
        self.context = zmq.Context()
        self.context.set(zmq.MAX_SOCKETS, 16384)
        self.refused: collections.Counter[tuple[str, str]] = collections.Counter()
        self._zap = self.context.socket(zmq.REP)
        self._zap.bind(ZAP_ENDPOINT)
        self._watches: list[_Watch] = []
        self._said: dict[str, float] = {}
        self._seen_at: float | None = None
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = NamedThread("qzd-listener", self._run)

    def open(self, name: str, kind: int, endpoints: tuple[str, ...], limits: Limits) -> BoundSocket:
        """Make a socket and bind it; only before `start`.

        Raises
        ------
        EndpointError
            An endpoint is in use, or cannot be bound.
        """
        opened = self.context.socket(kind)
        opened.setsockopt(zmq.SNDHWM, limits.send_hwm)
        opened.setsockopt(zmq.RCVHWM, limits.receive_hwm)
        opened.setsockopt(zmq.MAXMSGSIZE, limits.message_bytes)
        opened.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        opened.setsockopt(zmq.HEARTBEAT_IVL, PEER_PING_MS)
        monitor = opened.get_monitor_socket(EVENTS)
        try:
            bound = tuple(bind(opened, endpoint, self._access) for endpoint in endpoints)
        except EndpointError:
            opened.close(linger=0)
            monitor.close(linger=0)
            raise
        handshake = NULL_HANDSHAKE_BYTES if self._access.secret is None else CURVE_HANDSHAKE_BYTES
        connections = Connections(bound, limits.connections, handshake)
        bound_socket = BoundSocket(name, opened, bound, self._access, connections)
        self._watches.append(_Watch(bound_socket, monitor, connections))
        return bound_socket

    def start(self) -> None:
        """Begin to answer; until then no peer with a key can connect."""
        bound = {endpoint for watch in self._watches for endpoint in watch.bound_socket.endpoints}
        for endpoint in self._access.inherited.keys() - bound:
            log.warning("systemd listens on %s, which no `bind` names: its peers wait", endpoint)
        self._thread.start()

    def disconnect(self, names: Collection[str], reason: str) -> None:
        """Disconnect all peers of the sockets with these names; they may connect again."""
        for watch in self._watches:
            name, total = watch.bound_socket.name, watch.connections.total
            if name in names and total:
                self.refused[name, reason] += total
                watch.bound_socket.disconnect_later("")

    def stalled(self, seconds: float) -> list[str]:
        """Name the sockets whose owners have not come back to them for this long."""
        before = time.monotonic() - seconds
        seen = {watch.bound_socket.name: watch.bound_socket.seen_at for watch in self._watches}
        return [name for name, at in {**seen, "ZAP": self._seen_at}.items() if at is not None and at < before]

    @property
    def endpoints(self) -> dict[str, list[str]]:
        """What is bound, by the socket's name."""
        return {watch.bound_socket.name: list(watch.bound_socket.endpoints) for watch in self._watches}

    @property
    def connections(self) -> dict[str, int]:
        """Open connections by the socket's name."""
        return {watch.bound_socket.name: watch.connections.total for watch in self._watches}

    def close(self) -> None:
        """Close what is here, and the sockets that their owners have not closed; no thread may use one."""
        os.eventfd_write(self._stop, 1)
        if self._thread.ident is not None:
            self._thread.join()
        self._zap.close(linger=0)
        for watch in self._watches:
            watch.monitor.close(linger=0)
            watch.bound_socket.close(linger_ms=0)
        self.context.term()
        os.close(self._stop)

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._stop, zmq.POLLIN)
        poller.register(self._zap, zmq.POLLIN)
        watches = {watch.monitor: watch for watch in self._watches}
        for monitor in watches:
            poller.register(monitor, zmq.POLLIN)
        self._read_keys()
        while True:
            self._seen_at = time.monotonic()
            ready = dict(poller.poll(LOOK_MS))
            if self._stop in ready:
                return
            self._read_keys()
            if self._zap in ready:
                self._answer_zap()
            for monitor in watches.keys() & ready.keys():
                while monitor.poll(0):
                    self._handle(watches[monitor], monitor.recv_multipart())

    def _read_keys(self) -> None:
        """Read changed keys; if one was removed, disconnect every TCP peer, so that it shows its key."""
        if self._authorised is None or not self._authorised.read():
            return
        log.info("a key was taken back: every TCP peer must show its key again")
        for watch in self._watches:
            watch.bound_socket.disconnect_later("tcp://")

    def _answer_zap(self) -> None:
        """Answer a ZAP request; libzmq made it, so its form is known. Source: rfc.zeromq.org/spec/27."""
        version, request, _, address, _, mechanism, *credentials = self._zap.recv_multipart()
        try:
            name = self._name(address.decode(), mechanism, credentials)
        except Exception:  # one peer must not end the service of the others
            log.exception("a key could not be judged")
            name = None
        # 300, not 400, which libzmq's clients take as final: a peer whose key comes later could not connect
        answer = (b"200", b"OK", name.encode()) if name is not None else (b"300", b"not authorised", b"")
        self._zap.send_multipart([version, request, *answer, b""])

    def _name(self, address: str, mechanism: bytes, credentials: list[bytes]) -> str | None:
        """Return the name of a peer's key; None if the peer may not connect."""
        if mechanism == b"NULL":  # of an ipc endpoint that was bound again; TCP takes only CURVE
            return ""
        name = None
        if self._authorised is not None and mechanism == b"CURVE" and credentials:
            name = self._authorised.name(credentials[0])
        for problem in self._authorised.problems if self._authorised else ():
            self._report(problem, "of the authorised keys, this is ignored: %s", problem)
        if name is None:
            self._report("key", "%s is refused: its key is not among the authorised ones", address)
        else:
            log.info("%s has come in with the key %s", address, name)
        return name

    def _handle(self, watch: _Watch, frames: list[bytes]) -> None:
        """Handle an event of a socket's monitor."""
        try:
            event = parse_monitor_message(frames)
            self._judge(watch, int(event["event"]), int(event["value"]), event["endpoint"].decode())
        except Exception:  # one peer must not end the service of the others
            log.exception("a connection of the %s socket could not be judged", watch.bound_socket.name)

    def _judge(self, watch: _Watch, event: int, value: int, endpoint: str) -> None:
        name = watch.bound_socket.name
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self.refused[name, "key"] += 1
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            reason, why = REASONS.get(value, ("protocol", "it does not speak ZMTP 3"))
            self._refuse(name, reason, why)
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            self._refuse(name, "handshake", LEFT)
        else:
            self._count(name, watch.connections, event, value, endpoint)

    def _count(self, name: str, connections: Connections, event: int, file: int, endpoint: str) -> None:
        refusal: Refusal | None = None
        if event == zmq.EVENT_ACCEPTED:
            refusal = connections.accept(file, endpoint)
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            refusal = connections.handshake_done(endpoint)
        elif event == zmq.EVENT_DISCONNECTED:
            connections.disconnect(file, endpoint)
        elif event == zmq.EVENT_CLOSED:
            connections.clear(endpoint)
        if refusal == "limit":
            self._refuse(name, "limit", f"{connections.limit} connections are open already")
        elif refusal == "pending":
            self._refuse(name, "pending", PENDING_FULL)

    def _refuse(self, name: str, reason: str, why: str) -> None:
        self.refused[name, reason] += 1
        self._report(f"{name} {reason}", "a peer of the %s socket is refused: %s", name, why)

    def _report(self, what: str, text: str, *values: object) -> None:
        """Log a warning, unless the same was said a moment ago."""
        now = time.monotonic()
        if now - self._said.get(what, -SAY_SECONDS) >= SAY_SECONDS:
            self._said[what] = now
            log.warning(text, *values)


@dataclass(frozen=True, slots=True)
class _Watch:
    """A socket with its monitor and its connections."""

    bound_socket: BoundSocket
    monitor: zmq.Socket[bytes]
    connections: Connections
