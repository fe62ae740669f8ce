"""Bind a socket to an endpoint, or raise an error that says what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import zmq

from qzd_ext.errors import EndpointError

__all__ = ["BindOptions", "bind", "bind_again"]

IPV6 = re.compile(r"tcp://(\[|\*:)")  # a name or a device means its IPv4 address, as for those who connect
ZAP_DOMAIN = b"qzd"
IPC = "ipc://"
IPC_MODE = 0o660  # the group may connect
FIXES = {
    errno.EADDRINUSE: ("it is in use", "stop the process that holds it, or choose another endpoint"),
    errno.EADDRNOTAVAIL: ("this machine has no such address", "use an address of this machine, or tcp://*"),
    errno.ENODEV: ("this machine has no such address", "use an address of this machine, or tcp://*"),
    errno.EACCES: ("permission denied", "choose a port above 1023, or a directory that this user may write"),
    errno.EEXIST: ("a file that is not a socket exists there", "remove it, or choose another path"),
    errno.ENOENT: ("its directory does not exist", "make the directory, or choose another path"),
}


@dataclass(frozen=True, slots=True)
class BindOptions:
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


def bind(opened: zmq.Socket[bytes], endpoint: str, access: BindOptions) -> str:
    """Bind a socket.

    Parameters
    ----------
    opened : zmq.Socket
    endpoint : str
    access : BindOptions

    Returns
    -------
    str
        The endpoint, with the port that was chosen where it says `:*`.

    Raises
    ------
    EndpointError
        It is in use, or cannot be bound.
    """
    if endpoint.startswith(IPC):
        with _no_others():
            _bind(opened, endpoint, access)
    else:
        _bind(opened, endpoint, access)
    return opened.getsockopt_string(zmq.LAST_ENDPOINT)


def bind_again(opened: zmq.Socket[bytes], endpoint: str, access: BindOptions, end: float) -> None:
    """Bind an endpoint again that was just unbound; try until another thread has closed the old one.

    Other threads run meanwhile, so the umask, which they share, stays as it is.

    Parameters
    ----------
    end : float
        `time.monotonic()` after which it is not tried again.
    """
    while True:
        try:
            _bind(opened, endpoint, access)
            break
        except EndpointError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.005)
    if endpoint.startswith(IPC):
        with contextlib.suppress(FileNotFoundError):  # an abstract one has no mode
            Path(endpoint.removeprefix(IPC)).chmod(IPC_MODE)


@contextlib.contextmanager
def _no_others() -> Iterator[None]:
    """Give files that are created meanwhile mode 0660 from the start."""
    before = os.umask(0o777 & ~IPC_MODE)
    try:
        yield
    finally:
        os.umask(before)


def _set_options(opened: zmq.Socket[bytes], endpoint: str, secret: bytes | None) -> None:
    """Set the options of the endpoint that is bound next; endpoints that are bound already keep theirs."""
    opened.setsockopt(zmq.IPV6, IPV6.match(endpoint) is not None)
    if endpoint.startswith(IPC):
        secret = None
    if secret is not None:
        opened.setsockopt(zmq.CURVE_SECRETKEY, secret)
        opened.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)  # it cannot be unset; `Listener` knows
    opened.setsockopt(zmq.CURVE_SERVER, secret is not None)
    opened.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, secret is not None)


def _bind(opened: zmq.Socket[bytes], endpoint: str, access: BindOptions) -> None:
    _set_options(opened, endpoint, access.secret)
    file = access.inherited.get(endpoint.replace("tcp://*:", "tcp://0.0.0.0:"))
    if file is not None:
        opened.setsockopt(zmq.USE_FD, os.dup(file))  # it is closed when the endpoint is unbound
    elif endpoint.startswith(IPC):
        _check_path(endpoint)
    try:
        opened.bind(endpoint)
    except zmq.ZMQError as error:
        raise _cannot_bind(endpoint, error.errno or 0) from error
    finally:
        opened.setsockopt(zmq.USE_FD, -1)


def _check_path(endpoint: str) -> None:
    """Refuse a path that libzmq would remove: not a socket, or one on which another process listens."""
    path = endpoint.removeprefix(IPC)
    if os.path.lexists(path) and not Path(path).is_socket():
        raise _cannot_bind(endpoint, errno.EEXIST)
    if _is_served(path):
        raise _cannot_bind(endpoint, errno.EADDRINUSE)


def _is_served(path: str) -> bool:
    """Tell whether another process listens there; ZeroMQ would remove its path without an error."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        if Path(path).is_socket():
            probe.setblocking(False)
            with contextlib.suppress(BlockingIOError):  # its backlog is full, so a process listens
                probe.connect(path)
            return True
    return False


def _cannot_bind(endpoint: str, number: int) -> EndpointError:
    why, fix = FIXES.get(number, (os.strerror(number), "write it as tcp://ADDRESS:PORT or ipc:///PATH"))
    return EndpointError(f"{endpoint}: cannot be bound: {why}", wanted="an endpoint that is free", fix=fix)
