"""Find out what is at an endpoint: nothing, another program, or a daemon that refuses this client.

libzmq reconnects in silence, whatever is wrong, and its monitor does not tell which key was refused. So the
probe tries one handshake through a relay and looks at the peer's bytes. Sources: rfc.zeromq.org/spec/37 (a
greeting has 64 bytes and names the mechanism) and /25 (a CURVE server answers HELLO only if the client has
the right server key, and judges the client's key after that).
"""

from __future__ import annotations

import contextlib
import select
import socket
import time

import zmq
from zmq.utils.monitor import recv_monitor_message

from qzd_client.connect import Keys, check_permission, use_keys
from qzd_client.curve import read_public, read_secret
from qzd_client.errors import EndpointError

__all__ = ["PROBE_SECONDS", "NothingListensError", "SilentError", "probe"]

PROBE_SECONDS = 0.8  # a command says within a second what is wrong
GREETING_BYTES = 64
MECHANISM = slice(12, 32)
CHUNK_BYTES = 4096
START = "start qzd (`systemctl start qzd`), or use one of the endpoints in its configuration"


class NothingListensError(EndpointError):
    """No program listens at the endpoint."""

    code = "nothing_listens"


class SilentError(EndpointError):
    """The peer accepts connections and sends nothing: systemd starts the daemon now, or it hangs."""

    code = "silent"


def probe(
    endpoint: str, keys: Keys | None = None, *, subscribe: bool = False, timeout: float = PROBE_SECONDS
) -> None:
    """Return if a ZeroMQ handshake with an endpoint succeeds.

    Parameters
    ----------
    endpoint : str
        `tcp://HOST:PORT` or `ipc:///PATH`.
    keys : Keys, optional
        For a TCP endpoint with CURVE.
    subscribe : bool
        Whether the endpoint publishes; else it takes requests.
    timeout : float
        Seconds for the whole probe.

    Raises
    ------
    SilentError
        The peer accepts connections and sends nothing.
    EndpointError
        Nothing listens there, it is not ZeroMQ, or it refuses this client; the message says which.
    DataError
        A key cannot be used.
    """
    end = time.monotonic() + timeout
    keys = None if endpoint.startswith("ipc://") else keys
    if keys is not None:  # a mistake in a file shows before any of the network
        read_secret(keys.secret)
        read_public(keys.server)
    with contextlib.closing(_connect(endpoint, timeout)) as peer, _Relay(peer) as relay:
        if not _handshake(relay, keys, zmq.SUB if subscribe else zmq.DEALER, end):
            raise _judge(endpoint, keys, relay)


class _Relay:
    """Pass bytes between a local TCP port and a peer, and keep what the peer sends.

    Attributes
    ----------
    port : int
    received : bytearray
        From the peer.
    closed : bool
        Whether the peer has ended the connection.
    """

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._server = socket.create_server(("127.0.0.1", 0))
        self._client: socket.socket | None = None
        self.port: int = self._server.getsockname()[1]
        self.received = bytearray()
        self.closed = False

    def pump(self, seconds: float) -> None:
        """Wait at most so long for bytes of either side, and pass them on."""
        sides = [self._server] if self._client is None else [self._client, self._peer]
        for ready in select.select(sides, [], [], seconds)[0]:
            if ready is self._server:
                self._client = self._server.accept()[0]
            else:
                self._pass_on(ready)

    def _pass_on(self, source: socket.socket) -> None:
        assert self._client is not None
        try:
            data = source.recv(CHUNK_BYTES)
            if source is self._peer:
                self.received += data
                self.closed = not data
            (self._client if source is self._peer else self._peer).sendall(data)
        except OSError:
            self.closed = True

    def __enter__(self) -> _Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        if self._client is not None:
            self._client.close()


def _connect(endpoint: str, timeout: float) -> socket.socket:
    """Connect a plain socket, which tells why it cannot."""
    check_permission(endpoint)
    try:
        if endpoint.startswith("ipc://"):
            return _connect_path(endpoint.removeprefix("ipc://"), timeout)
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        if not endpoint.startswith("tcp://") or int(port) not in range(1, 2**16):
            raise ValueError("not an endpoint")
        return socket.create_connection((host.strip("[]"), int(port)), timeout)
    except ValueError as error:
        raise EndpointError(
            f"{endpoint}: cannot connect: not an endpoint",
            wanted="tcp://HOST:PORT or ipc:///PATH",
            fix="use an endpoint that the daemon binds",
        ) from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NothingListensError(
            f"{endpoint}: nothing listens there", wanted="a running qzd that binds this endpoint", fix=START
        ) from error
    except socket.gaierror as error:
        raise EndpointError(
            f"{endpoint}: the host's name is not known: {error.strerror}",
            wanted="a name that this machine can look up, or an address",
            fix="correct the name",
        ) from error
    except OSError as error:  # a timeout has no strerror
        why = error.strerror or f"no answer within {timeout:g} s"
        raise EndpointError(
            f"{endpoint}: cannot connect: {why}",
            wanted="a machine that is switched on, with a network and a firewall that let this port through",
            fix="try `ping` and correct the address, or open the port",
        ) from error


def _connect_path(path: str, timeout: float) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(timeout)
    try:
        made.connect(path)
    except OSError:
        made.close()
        raise
    return made


def _handshake(relay: _Relay, keys: Keys | None, kind: int, end: float) -> bool:
    """Whether libzmq and the peer agree before `end`."""
    with zmq.Context() as context:
        tried: zmq.Socket[bytes] = context.socket(kind)
        monitor = tried.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        try:
            tried.setsockopt(zmq.LINGER, 0)
            use_keys(tried, keys)
            tried.connect(f"tcp://127.0.0.1:{relay.port}")
            while not relay.closed and (left := end - time.monotonic()) > 0:
                relay.pump(min(left, 0.02))
                if monitor.poll(0):
                    return bool(recv_monitor_message(monitor))
            return False
        finally:
            tried.disable_monitor()
            monitor.close(linger=0)
            tried.close(linger=0)


def _judge(endpoint: str, keys: Keys | None, relay: _Relay) -> EndpointError:
    """Say what the peer's bytes, so far, mean."""
    heard = bytes(relay.received)
    if not heard and not relay.closed:
        return SilentError(
            f"{endpoint}: it accepts connections and sends nothing",
            wanted="an answer of qzd, which a start or a hang delays",
            fix="wait, or see `systemctl status qzd`",
        )
    if not heard:
        return EndpointError(
            f"{endpoint}: it ends each connection at once",
            wanted="a free place: an endpoint takes `max_connections`, and fewer from one address",
            fix="close other clients, or raise `max_connections`",
        )
    if heard[0] != 0xFF or (len(heard) > 9 and heard[9] != 0x7F):
        return EndpointError(
            f"{endpoint}: what listens there is not ZeroMQ",
            wanted="an endpoint of qzd",
            fix="correct the port; the daemon's log and `qzdctl status` list its endpoints",
        )
    return _judge_keys(endpoint, keys, heard)


def _judge_keys(endpoint: str, keys: Keys | None, heard: bytes) -> EndpointError:
    mechanism = heard[MECHANISM].rstrip(b"\0")
    agreed = mechanism == (b"CURVE" if keys else b"NULL")
    if not agreed and keys is None:
        return EndpointError(
            f"{endpoint}: it asks for keys, and none are given",
            wanted="--key FILE and --server-key FILE (or QZD_KEY and QZD_SERVER_KEY)",
            fix="make a key with `qzdctl keygen`, and have its .pub put into the daemon's authorized_keys",
        )
    if not agreed:
        return EndpointError(
            f"{endpoint}: it has no keys, and yours are not accepted there",
            wanted="an endpoint with [security] server_key",
            fix="leave out --key and --server-key, or correct the endpoint",
        )
    if keys is not None and len(heard) == GREETING_BYTES:
        return EndpointError(
            f"{endpoint}: {keys.server} is not its public key",
            wanted="the daemon's public key: NAME.pub beside its `server_key`",
            fix="copy it from the daemon's machine again",
        )
    if keys is not None:
        return EndpointError(
            f"{endpoint}: the key {keys.secret} is not authorised",
            wanted="its public half in the directory that the daemon's `authorized_keys` names",
            fix=f"copy {keys.secret.with_suffix('.pub').name} there; it is read within a second",
        )
    return EndpointError(
        f"{endpoint}: another kind of socket listens there",
        wanted="an endpoint that the daemon binds for this",
        fix="correct the endpoint; `qzdctl status` lists all of them",
    )
