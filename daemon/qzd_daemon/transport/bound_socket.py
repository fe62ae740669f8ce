"""A bound socket, as its owner uses it: wait, wake, close, and disconnect its peers."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Iterator
from typing import Any

import zmq

from qzd_daemon.transport.bind import BindOptions, bind_again
from qzd_daemon.transport.connections import Connections
from qzd_ext.errors import EndpointError

__all__ = ["BoundSocket"]

log = logging.getLogger(__name__)

FAREWELL_SECONDS = 0.1
LOOK_MS = 1000  # how often its owner shows that it is alive
LAST_SECONDS = 1.0  # for unread messages when an owner stops
LEFT_MS = 50  # what is on its way when an owner stops comes within this time, on a busy machine too
REBIND_SECONDS = 0.1  # the old listener is closed by another thread, a moment later
REBIND_PAUSE_SECONDS = 0.5  # between tries, if something else has taken the endpoint meanwhile


class BoundSocket:
    """A bound socket. Its owner uses it, on one thread, and calls `wait` or `refresh` now and then.

    Attributes
    ----------
    socket : zmq.Socket
    endpoints : tuple of str
        What is bound, with the ports that were chosen for `:*`.
    connections : Connections
    seen_at : float or None
        `time.monotonic()` at which its owner last came back to it; None before the first time.
    """

    def __init__(
        self,
        name: str,
        bound: zmq.Socket[bytes],
        endpoints: tuple[str, ...],
        access: BindOptions,
        connections: Connections,
    ) -> None:
        self.name = name
        self.socket = bound
        self.endpoints = endpoints
        self.connections = connections
        self.seen_at: float | None = None
        self._access = access
        self._disconnect_later: collections.deque[str] = collections.deque()
        self._unbound: list[str] = []  # endpoints that something else took when they were unbound
        self._next_try = 0.0
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._is_open = True
        self._lock = threading.Lock()  # of these two
        self._poller = zmq.Poller()
        self._poller.register(self._bell, zmq.POLLIN)
        self._poller.register(bound, zmq.POLLIN)
        self._outside = select.poll()
        for file in (self._bell, bound.getsockopt(zmq.FD)):
            self._outside.register(file, select.POLLIN)  # type: ignore[arg-type]

    def wait(self, milliseconds: int | None = None) -> None:
        """Sleep until something can be read, `wake` is called, or the time is over; then `refresh`."""
        if self._unbound:
            longest = round(REBIND_PAUSE_SECONDS * 1e3)
            milliseconds = longest if milliseconds is None else min(milliseconds, longest)
        longest = LOOK_MS if milliseconds is None else min(milliseconds, LOOK_MS)
        self._poller.poll(longest)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        self.refresh()

    def wait_outside(self, seconds: float) -> None:
        """Sleep as `wait` does, without using the socket: other threads use it meanwhile, under a lock.

        libzmq signals what can be read by the edge of a file descriptor, which any use of the socket may take
        away. So each thread looks at `has_unread` after its use, and calls `wake`. Source: zmq_getsockopt(3).
        """
        longest = REBIND_PAUSE_SECONDS if self._unbound else LOOK_MS / 1e3
        self._outside.poll(min(seconds, longest) * 1e3)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)

    @property
    def has_unread(self) -> bool:
        """Whether a message can be read; for the thread that may use the socket."""
        return bool(int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def wake(self) -> None:
        """End the owner's `wait`, from any thread; after `close` it does nothing."""
        with self._lock:
            if self._is_open:
                os.eventfd_write(self._bell, 1)

    def unread(self, *, copy: bool = True) -> Iterator[list[Any]]:
        """Yield what an owner that stops has not read, and what is on its way, for `LAST_SECONDS` at most."""
        end = time.monotonic() + LAST_SECONDS
        while time.monotonic() < end and self.socket.poll(LEFT_MS):
            yield self.socket.recv_multipart(0, copy=copy)

    def close(self, linger_ms: int, *, answered: bool = False) -> None:
        """Close the socket; if callers have just been `answered`, first give them a moment to read it.

        A caller with IMMEDIATE, as `caller` has it, loses what it has not read when the connection ends.
        """
        if answered:
            time.sleep(FAREWELL_SECONDS)
        with self._lock:
            if self._is_open:
                self._is_open = False
                os.close(self._bell)
                self.socket.close(linger=linger_ms)

    def disconnect_later(self, scheme: str) -> None:
        """Ask for `disconnect` at the owner's next `refresh`, from any thread."""
        self._disconnect_later.append(scheme)
        self.wake()

    def refresh(self) -> None:
        """Disconnect peers if `disconnect_later` asked for it, and bind again what could not be bound."""
        self.seen_at = time.monotonic()
        schemes = {self._disconnect_later.popleft() for _ in range(len(self._disconnect_later))}
        for scheme in schemes:
            self.disconnect(scheme)
        if self._unbound and time.monotonic() >= self._next_try:
            self._bind_again(0.0)
            if not self._unbound:
                log.info("the %s socket is bound again", self.name)

    def disconnect(self, scheme: str) -> None:
        """Disconnect every peer of the endpoints that begin with `scheme`; peers may connect again at once.

        If something else has taken an endpoint meanwhile, `refresh` tries to bind it again and again.
        """
        for endpoint in self.endpoints:
            if endpoint.startswith(scheme) and endpoint not in self._unbound:
                self.socket.unbind(endpoint)
                self._unbound.append(endpoint)
        self._bind_again(REBIND_SECONDS)
        for endpoint in self._unbound:
            log.error("%s: something else has taken it; the %s socket tries again", endpoint, self.name)

    def _bind_again(self, patience: float) -> None:
        """Bind the unbound endpoints; those not free within `patience` seconds wait for the next try."""
        end = time.monotonic() + patience
        for endpoint in list(self._unbound):
            with contextlib.suppress(EndpointError):
                bind_again(self.socket, endpoint, self._access, end)
                self._unbound.remove(endpoint)
        self._next_try = time.monotonic() + REBIND_PAUSE_SECONDS
