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
from pathlib import Path

import zmq

from qzd_ext.errors import EndpointError

__all__ = ["bind", "bind_again"]

IPV6 = re.compile(r"tcp://(\[|\*:)")  # a name or a device means its IPv4 address, as for those who connect
REBIND_SECONDS = 2.0
FIXES = {
    errno.EADDRINUSE: ("it is in use", "stop the process that holds it, or choose another endpoint"),
    errno.EADDRNOTAVAIL: ("this machine has no such address", "use an address of this machine, or tcp://*"),
    errno.ENODEV: ("this machine has no such address", "use an address of this machine, or tcp://*"),
    errno.EACCES: ("permission denied", "choose a port above 1023, or a directory that this user may write"),
    errno.ENOENT: ("its directory is not there", "make the directory, or choose another path"),
}


def bind(opened: zmq.Socket[bytes], endpoint: str, inherited: Mapping[str, int]) -> None:
    """Bind a socket; an ipc endpoint gets mode 0660.

    Parameters
    ----------
    opened : zmq.Socket
    endpoint : str
    inherited : mapping
        Files that listen already, by endpoint; used where there is one.

    Raises
    ------
    EndpointError
        It is in use, or cannot be bound.
    """
    opened.setsockopt(zmq.IPV6, IPV6.match(endpoint) is not None)
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


def bind_again(opened: zmq.Socket[bytes], endpoint: str, inherited: Mapping[str, int]) -> None:
    """As `bind`, just after it was unbound: the old listener is closed by another thread, a moment later."""
    end = time.monotonic() + REBIND_SECONDS
    while True:
        try:
            bind(opened, endpoint, inherited)
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
