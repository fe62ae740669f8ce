"""Binding a socket to an endpoint, or an error that says what to do.

What may live here: one socket, one endpoint. Who may connect to it is in `door`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import zmq

from qzd_ext.errors import EndpointError

__all__ = ["Access", "bind", "bind_again"]

IPV6 = re.compile(r"tcp://(\[|\*:)")  # a name or a device means its IPv4 address, as for those who connect
ZAP_DOMAIN = b"qzd"
REBIND_SECONDS = 2.0
FIXES = {
    errno.EADDRINUSE: ("it is in use", "stop the process that holds it, or choose another endpoint"),
    errno.EADDRNOTAVAIL: ("this machine has no such address", "use an address of this machine, or tcp://*"),
    errno.ENODEV: ("this machine has no such address", "use an address of this machine, or tcp://*"),
    errno.EACCES: ("permission denied", "choose a port above 1023, or a directory that this user may write"),
    errno.ENOENT: ("its directory is not there", "make the directory, or choose another path"),
}


@dataclass(frozen=True, slots=True)
class Access:
    """What every endpoint is bound with.

    Attributes
    ----------
    inherited : mapping
        Files that listen already, by endpoint.
    secret : bytes or None
        The CURVE key of TCP endpoints; ipc endpoints have mode 0660 instead.
    """

    inherited: Mapping[str, int]
    secret: bytes | None


def bind(opened: zmq.Socket[bytes], endpoint: str, access: Access) -> str:
    """Bind a socket.

    Parameters
    ----------
    opened : zmq.Socket
    endpoint : str
    access : Access

    Returns
    -------
    str
        The endpoint, with the port that was chosen where it says `:*`.

    Raises
    ------
    EndpointError
        It is in use, or cannot be bound.
    """
    _set_options(opened, endpoint, access.secret)
    _bind(opened, endpoint, access.inherited)
    return opened.getsockopt_string(zmq.LAST_ENDPOINT)


def _set_options(opened: zmq.Socket[bytes], endpoint: str, secret: bytes | None) -> None:
    """They hold for the endpoint that is bound next; what is bound already keeps those that it had."""
    opened.setsockopt(zmq.IPV6, IPV6.match(endpoint) is not None)
    if endpoint.startswith("ipc://"):
        secret = None
    if secret is not None:
        opened.setsockopt(zmq.CURVE_SECRETKEY, secret)
        opened.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)  # it cannot be taken away again; `Door` knows
    opened.setsockopt(zmq.CURVE_SERVER, secret is not None)
    opened.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, secret is not None)


def _bind(opened: zmq.Socket[bytes], endpoint: str, inherited: Mapping[str, int]) -> None:
    file = inherited.get(endpoint.replace("tcp://*:", "tcp://0.0.0.0:"))
    if file is not None:
        opened.setsockopt(zmq.USE_FD, os.dup(file))  # it is closed when the endpoint is unbound
        opened.bind(endpoint)
        opened.setsockopt(zmq.USE_FD, -1)
        return
    path = endpoint.removeprefix("ipc://") if endpoint.startswith("ipc://") else None
    if path is not None and _is_served(path):
        raise _cannot_bind(endpoint, errno.EADDRINUSE)
    umask = os.umask(0o117) if path is not None else None  # 0660: the group may connect
    try:
        opened.bind(endpoint)
    except zmq.ZMQError as error:
        raise _cannot_bind(endpoint, error.errno or 0) from error
    finally:
        if umask is not None:
            os.umask(umask)


def bind_again(opened: zmq.Socket[bytes], endpoint: str, access: Access) -> None:
    """As `bind`, just after it was unbound: the old listener is closed by another thread, a moment later."""
    end = time.monotonic() + REBIND_SECONDS
    while True:
        try:
            bind(opened, endpoint, access)
            return
        except EndpointError:
            if time.monotonic() > end:
                raise
            time.sleep(0.005)


def _is_served(path: str) -> bool:
    """Whether another process listens there; ZeroMQ would take its path away without a word."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        if Path(path).is_socket():
            probe.connect(path)
            return True
    return False


def _cannot_bind(endpoint: str, number: int) -> EndpointError:
    why, fix = FIXES.get(number, (os.strerror(number), "write it as tcp://ADDRESS:PORT or ipc:///PATH"))
    return EndpointError(f"{endpoint}: cannot be bound: {why}", wanted="an endpoint that is free", fix=fix)
