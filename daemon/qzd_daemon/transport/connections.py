"""The connections of one socket: counted, limited, and closed when they are too many.

libzmq accepts a connection before it knows who connects. A TCP peer that has not finished its handshake is
pending: such peers have few places, per address, apart from the others, and the oldest loses its place to the
newest. So silent peers cannot keep out those that have a key. Peers over ipc have passed the file's mode.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

__all__ = ["CURVE_HANDSHAKE_BYTES", "NULL_HANDSHAKE_BYTES", "PENDING", "Connections", "Refusal"]

PENDING = 32  # on each endpoint
PENDING_PER_ADDRESS = 8
NULL_HANDSHAKE_BYTES = 64 + 26  # a greeting, and READY with the shortest socket type. Source: ZMTP 3.1
CURVE_HANDSHAKE_BYTES = 64 + 202 + 259  # a greeting, HELLO, and INITIATE without metadata. Source: CurveZMQ
BYTES_RECEIVED = 128  # the offset of tcpi_bytes_received in struct tcp_info: linux/tcp.h
ANY_ADDRESS = re.compile(r"tcp://(0\.0\.0\.0|\[::\]):")

Refusal = Literal["limit", "pending"]


@dataclass(frozen=True, slots=True)
class _Connection:
    file: int
    endpoint: str
    """As libzmq writes it, with the address that the peer has reached."""
    address: str
    """The peer's; empty over ipc."""


class Connections:
    """What is connected to the endpoints of one socket.

    One thread tells it what happens; any thread may read `total` and `serial`.

    Parameters
    ----------
    endpoints : tuple of str
    limit : int
        Connections on each endpoint, pending ones apart.
    handshake_bytes : int
        A TCP peer that has sent fewer is pending.
    """

    def __init__(self, endpoints: tuple[str, ...], limit: int, handshake_bytes: int) -> None:
        self.limit = limit
        self._handshake_bytes = handshake_bytes
        self._established: dict[str, dict[int, _Connection]] = {endpoint: {} for endpoint in endpoints}
        self._pending: dict[str, dict[int, _Connection]] = {endpoint: {} for endpoint in endpoints}
        self._by_port = {_port(e): e for e in endpoints if ANY_ADDRESS.match(e)}
        self._serials: collections.Counter[int] = collections.Counter()

    @property
    def total(self) -> int:
        """Open connections on all endpoints."""
        tables = (*self._established.values(), *self._pending.values())  # none is added after the start
        return sum(len(table) for table in tables)

    def serial(self, file: int) -> int:
        """Count the connections that have had this file number: another count means another peer."""
        return self._serials[file]

    def is_open(self, file: int) -> bool:
        """Whether there is a connection with this file number."""
        return any(file in table for table in (*self._established.values(), *self._pending.values()))

    def accept(self, file: int, endpoint: str) -> Refusal | None:
        """Note a new connection; return why one was closed, this one or an older one."""
        self._serials[file] += 1
        connection = _Connection(file, endpoint, "")
        bound = self._bound(endpoint)
        with _opened(connection) as opened:
            if opened is None or bound is None:  # it has left already
                return None
            if opened.family == socket.AF_UNIX:
                if len(self._established[bound]) >= self.limit:
                    _shut(connection)
                    return "limit"
                self._established[bound][file] = connection
                return None
            connection = _Connection(file, endpoint, opened.getpeername()[0])
        self._promote(bound)
        if len(self._established[bound]) >= self.limit:
            _shut(connection)
            return "limit"
        self._pending[bound][file] = connection
        return self._shrink_pending(bound, connection.address)

    def handshake_done(self, endpoint: str) -> Refusal | None:
        """Note that one of the pending connections is no longer pending; libzmq does not say which."""
        bound = self._bound(endpoint)
        if bound is None:
            return None
        self._promote(bound)
        established = self._established[bound]
        refusal: Refusal | None = None
        while len(established) > self.limit:
            _, newest = established.popitem()
            _shut(newest)
            refusal = "limit"
        return refusal

    def disconnect(self, file: int, endpoint: str) -> None:
        """Note that a connection has ended."""
        for tables in (self._established, self._pending):
            tables.get(self._bound(endpoint) or "", {}).pop(file, None)

    def clear(self, endpoint: str) -> None:
        """Note that an endpoint was unbound: all its connections end with it."""
        for tables in (self._established, self._pending):
            tables.get(self._bound(endpoint) or "", {}).clear()

    def close(self, file: int) -> None:
        """Close the connection with this file number, if there is one."""
        for table in (*self._established.values(), *self._pending.values()):
            connection = table.get(file)
            if connection is not None:
                _shut(connection)

    def _bound(self, endpoint: str) -> str | None:
        """Find the endpoint that was bound; None for one that is not ours."""
        return endpoint if endpoint in self._established else self._by_port.get(_port(endpoint))

    def _promote(self, bound: str) -> None:
        """Take the connections whose handshake is over from the pending ones to the others."""
        for connection in list(self._pending[bound].values()):
            with _opened(connection) as opened:
                if opened is not None and _received(opened) >= self._handshake_bytes:
                    del self._pending[bound][connection.file]
                    self._established[bound][connection.file] = connection

    def _shrink_pending(self, bound: str, address: str) -> Refusal | None:
        """Close the oldest connection of this address, or of the address with most, if they are too many."""
        pending = self._pending[bound]
        counts = collections.Counter(connection.address for connection in pending.values())
        if counts[address] <= PENDING_PER_ADDRESS:
            if len(pending) <= PENDING:
                return None
            address = counts.most_common(1)[0][0]
        oldest = next(c for c in pending.values() if c.address == address)
        del pending[oldest.file]
        _shut(oldest)
        return "pending"


def _received(opened: socket.socket) -> int:
    """Return how many bytes have come from a TCP peer."""
    info = opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    received: int = struct.unpack_from("=Q", info, BYTES_RECEIVED)[0]
    return received


def _shut(connection: _Connection) -> None:
    """Shut down a connection that libzmq holds; it has no call for that, but notices the end of a stream."""
    with _opened(connection) as opened, contextlib.suppress(OSError):
        if opened is not None:
            opened.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _opened(connection: _Connection) -> Iterator[socket.socket | None]:
    """Open a copy of a connection that libzmq holds; None if the peer has left.

    The number may belong to something else by now: a file, another socket. The copy stays the same, so what
    it is can be checked.
    """
    try:
        copy = os.dup(connection.file)
    except OSError:
        yield None
        return
    try:
        opened = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        yield None
        return
    with opened:
        yield opened if _is_connected_to(opened, connection.endpoint) else None


def _is_connected_to(opened: socket.socket, endpoint: str) -> bool:
    try:
        opened.getpeername()
        return _endpoint_of(opened) == endpoint
    except OSError:
        return False


def _endpoint_of(opened: socket.socket) -> str:
    """Return its address on this side, as libzmq writes it; empty if libzmq would not use it."""
    here = opened.getsockname()
    match opened.family:
        case socket.AF_UNIX:
            return f"ipc://{here}" if here else ""
        case socket.AF_INET:
            return f"tcp://{here[0]}:{here[1]}"
        case socket.AF_INET6:
            return f"tcp://[{here[0]}]:{here[1]}"
    return ""


def _port(endpoint: str) -> str:
    return endpoint.rpartition(":")[2]
