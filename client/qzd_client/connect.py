"""Connect a ZeroMQ socket to an endpoint of the daemon, with CURVE keys if it asks for them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import zmq

from qzd_client.curve import read_public, read_secret
from qzd_client.errors import EndpointError
from qzd_client.messages import MAX_MESSAGE_BYTES

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

PEER_PING_MS = 5000
HANDSHAKE_MS = 2000  # a daemon that refuses a key does not answer; try again after this time
RECONNECT_MS = (100, 2000)  # doubled after each attempt
LONGEST_MS = 2**31 - 1  # the longest timeout of zmq_poll


@dataclass(frozen=True, slots=True)
class Keys:
    """The key files of a client for CURVE; `qzdctl keygen` makes them.

    Attributes
    ----------
    secret : Path
        The client's secret key. Its public half is in the daemon's directory of authorised keys.
    server : Path
        The daemon's public key.

    Examples
    --------
    >>> keys = Keys(secret=Path("client.key"), server=Path("qzd.pub"))
    """

    secret: Path
    server: Path


Socket = TypeVar("Socket", bound="zmq.Socket[bytes]")


def connect(made: Socket, endpoint: str, keys: Keys | None) -> Socket:
    """Set a socket's options and connect it. The daemon need not run yet; libzmq reconnects by itself.

    Raises
    ------
    EndpointError
        The endpoint is not valid, or is a socket that this user may not use.
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
            f"{endpoint}: cannot connect: {os.strerror(error.errno or 0)}",
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
    """Whether this user may not connect to a socket; libzmq would retry forever without an error."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return not os.access(path, os.W_OK)


def milliseconds(end: float) -> int:
    """Return the milliseconds until `time.monotonic()` is `end`, which may be math.inf."""
    return round(min(max(0.0, end - time.monotonic()) * 1e3, LONGEST_MS))
