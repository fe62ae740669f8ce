"""Readiness, watchdog and status to systemd, and the sockets that it hands over.

Nothing happens where it did not start us. Source: sd_notify(3), sd_listen_fds(3).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator

__all__ = ["inherited_sockets", "more_time", "notify", "watchdog_interval"]

EXTEND_SECONDS = 5.0
PATIENCE_SECONDS = 1.0  # with a systemd that does not read: its queue holds a few notices
FIRST_SOCKET = 3


def notify(*fields: str) -> None:
    """Tell systemd, for example `notify("READY=1", "STATUS=serving 2 streams")`."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(PATIENCE_SECONDS)
            sender.connect(address)
            sender.sendall("\n".join(fields).encode())
    except OSError:
        return  # nobody listens or reads, or no file can be opened: the work goes on all the same


def watchdog_interval() -> float | None:
    """Seconds within which systemd wants `WATCHDOG=1`; None where it does not watch this process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdigit() and int(microseconds) > 0 else None


@contextlib.contextmanager
def more_time(most: float) -> Iterator[None]:
    """Ask systemd to wait while this context lasts, for at most `most` seconds."""
    if not os.environ.get("NOTIFY_SOCKET"):
        yield
        return
    done = threading.Event()

    def ask() -> None:
        end = time.monotonic() + most
        while time.monotonic() < end:
            notify(f"EXTEND_TIMEOUT_USEC={3 * EXTEND_SECONDS * 1e6:.0f}")
            if done.wait(EXTEND_SECONDS):
                return

    thread = threading.Thread(target=ask, name="qzd-more-time", daemon=True)
    with contextlib.suppress(RuntimeError):  # no thread can be started: systemd may then lose patience
        thread.start()
    try:
        yield
    finally:
        done.set()
        if thread.ident is not None:
            thread.join()


def inherited_sockets() -> dict[str, int]:
    """Take the sockets that systemd listens on for us.

    Returns
    -------
    dict
        File numbers by ZeroMQ endpoint, `ipc://PATH` or `tcp://ADDRESS:PORT`.
    """
    mine = os.environ.pop("LISTEN_PID", "") == str(os.getpid())
    count = int(os.environ.pop("LISTEN_FDS", "0"))
    os.environ.pop("LISTEN_FDNAMES", None)
    files = range(FIRST_SOCKET, FIRST_SOCKET + count) if mine else ()
    return {_endpoint(file): file for file in files}


def _endpoint(file: int) -> str:
    os.set_inheritable(file, False)
    with socket.socket(fileno=os.dup(file)) as listener:
        name = listener.getsockname()
    if isinstance(name, str):
        return f"ipc://{name}"
    return f"tcp://[{name[0]}]:{name[1]}" if ":" in name[0] else f"tcp://{name[0]}:{name[1]}"
