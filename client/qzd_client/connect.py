"""Connecting to a daemon: endpoint and keys in, a socket out."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import zmq

from qzd_client.curve import read_public, read_secret
from qzd_client.errors import EndpointError

__all__ = [
    "CONTROL",
    "DETECTIONS",
    "INFERENCE",
    "INGEST",
    "Keys",
    "check_permission",
    "connect",
    "milliseconds",
    "use_keys",
]

DETECTIONS = "tcp://127.0.0.1:5561"
CONTROL = "ipc:///run/qzd/control"
INFERENCE = "ipc:///run/qzd/inference"
INGEST = "ipc:///run/qzd/ingest"

MAX_MESSAGE_BYTES = 16 * 2**20
PEER_PING_MS = 5000
HANDSHAKE_MS = 2000  # a daemon that refuses a key says nothing: ask again after this time
RECONNECT_MS = (100, 2000)  # doubled after each attempt
LONGEST_MS = 2**31 - 1  # of what libzmq waits


@dataclass(frozen=True, slots=True)
class Keys:
    """The CURVE keys of a client; `qzdctl keygen` makes them.

    Attributes
    ----------
    secret : Path
        The client's own secret key; its public half lies in the daemon's `authorized_keys`.
    server : Path
        The daemon's public key.
    """

    secret: Path
    server: Path


Socket = TypeVar("Socket", bound="zmq.Socket[bytes]")


def connect(made: Socket, endpoint: str, keys: Keys | None) -> Socket:
    """Set a socket's options and connect it; nobody needs to be there yet. It reconnects by itself.

    Raises
    ------
    EndpointError
        The endpoint is not one, or is a socket that this user may not use.
    DataError
        A key cannot be used.
    """
    check_permission(endpoint)
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    made.setsockopt(zmq.IPV6, 1)
    made.setsockopt(zmq.HEARTBEAT_IVL, PEER_PING_MS)
    made.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    made.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS[0])
    made.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MS[1])
    if not endpoint.startswith("ipc://"):
        use_keys(made, keys)
    try:
        made.connect(endpoint)
    except zmq.ZMQError as error:
        raise EndpointError(
            f"{endpoint}: cannot be connected to: {os.strerror(error.errno or 0)}",
            wanted="tcp://HOST:PORT or ipc:///PATH",
            fix="use an endpoint that the daemon binds",
        ) from error
    return made


def use_keys(made: Socket, keys: Keys | None) -> None:
    """Set the options of CURVE, if there are keys.

    Raises
    ------
    DataError
        A key cannot be used.
    """
    if keys is None:
        return
    secret = read_secret(keys.secret)
    made.setsockopt(zmq.CURVE_SECRETKEY, secret)
    made.setsockopt(zmq.CURVE_PUBLICKEY, zmq.curve_public(secret))
    made.setsockopt(zmq.CURVE_SERVERKEY, read_public(keys.server))


def check_permission(endpoint: str) -> None:
    """Check that this user may connect to a socket in the file system.

    Raises
    ------
    EndpointError
        The user may not.
    """
    if endpoint.startswith("ipc:///") and _forbidden(Path(endpoint.removeprefix("ipc://"))):
        raise EndpointError(
            f"{endpoint}: permission denied",
            wanted="a user in the group of the socket, usually `qzd`",
            fix="run `usermod -aG qzd USER` as root and log in again, or run this command as root",
        )


def _forbidden(path: Path) -> bool:
    """Whether this user may not connect to a socket; libzmq would try for ever, in silence."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return not os.access(path, os.W_OK)


def milliseconds(end: float) -> int:
    """From now until `time.monotonic()` is `end`, which may be math.inf."""
    return round(min(max(0.0, end - time.monotonic()) * 1e3, LONGEST_MS))
