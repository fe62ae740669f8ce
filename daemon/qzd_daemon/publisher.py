"""The XPUB socket and the one thread that owns it.

Any thread hands messages over with `publish`; the thread numbers, stamps, encodes and sends them in that
order. ZeroMQ sockets are not thread-safe, and numbering at the only exit is what makes a hole in `seq`
mean a loss. A subscriber that is slow loses its own messages (send_hwm) and delays nobody.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Literal

import msgspec
import zmq

from qzd_daemon import wire
from qzd_daemon.config import PublishConfig
from qzd_ext.errors import EndpointError

__all__ = ["Publisher"]

log = logging.getLogger(__name__)

MAX_SUBSCRIPTION_BYTES = 1024
BATCH = 256  # messages sent before the socket is looked at for subscriptions


class Publisher:
    """Numbers messages by topic and sends them; beats every `heartbeat_ms`.

    Parameters
    ----------
    config : PublishConfig

    Attributes
    ----------
    epoch : str
        The uuid of this run.
    endpoints : tuple of str
        What is bound, with the ports that were chosen where the configuration says `:*`.

    Raises
    ------
    EndpointError
        An endpoint is in use, or cannot be bound.
    """

    def __init__(self, config: PublishConfig) -> None:
        self.epoch = str(uuid.uuid4())
        self._config = config
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        try:
            self.endpoints = _bind(self._socket, config)
        except EndpointError:
            self._context.destroy(linger=0)
            raise
        self._queue: collections.deque[tuple[str, wire.Message]] = collections.deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._sequence: dict[str, int] = {}
        self._beats = 0
        self._subscriptions: collections.Counter[bytes] = collections.Counter()
        self._subscribed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="qzd-publisher")

    def start(self) -> None:
        """Begin to send and to beat."""
        self._thread.start()

    def publish(self, topic: str, message: wire.Message) -> None:
        """Hand a message over, from any thread. Messages of one thread keep their order."""
        self._queue.append((topic, message))
        os.eventfd_write(self._wake, 1)

    def wait_for_subscriptions(self, count: int, timeout: float) -> bool:
        """Wait until so many subscriptions to detections are there; False after `timeout` seconds."""
        with self._subscribed:
            return self._subscribed.wait_for(lambda: self._detection_subscriptions() >= count, timeout)

    def _detection_subscriptions(self) -> int:
        prefix = wire.DETECTIONS.encode()
        matching = (t for t in self._subscriptions if t.startswith(prefix) or prefix.startswith(t))
        return sum(self._subscriptions[topic] for topic in matching)

    def close(self) -> None:
        """Send what was handed over and a last heartbeat, then close; waits at most `linger_ms`."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close(linger=self._config.linger_ms)
        self._context.term()
        os.close(self._wake)

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake, zmq.POLLIN)
        poller.register(self._socket, zmq.POLLIN)
        interval = self._config.heartbeat_ms / 1e3
        next_beat = time.monotonic()
        while not self._stopping:
            if time.monotonic() >= next_beat:
                self._beat("serving")
                next_beat = time.monotonic() + interval
            if not self._queue:
                poller.poll(max(0, round((next_beat - time.monotonic()) * 1e3)))
            self._send_queued(BATCH)
            self._read_subscriptions()
        self._send_queued(len(self._queue))
        self._beat("stopping")

    def _send_queued(self, most: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)  # before the queue: what comes later wakes again
        with contextlib.suppress(IndexError):
            for _ in range(most):
                topic, message = self._queue.popleft()
                seq = self._sequence[topic] = self._sequence.get(topic, 0) + 1
                self._send(topic, message, seq)

    def _beat(self, state: Literal["serving", "stopping"]) -> None:
        """A heartbeat lists the other topics, and so has its own count apart from theirs."""
        self._beats += 1
        beat = wire.Heartbeat(state=state, interval_ms=self._config.heartbeat_ms, topics=self._sequence)
        self._send(wire.HEARTBEAT, beat, self._beats)

    def _send(self, topic: str, message: wire.Message, seq: int) -> None:
        stamped = msgspec.structs.replace(message, epoch=self.epoch, seq=seq, published_ns=time.time_ns())
        self._socket.send_multipart([topic.encode(), wire.encode(stamped)], zmq.NOBLOCK)

    def _read_subscriptions(self) -> None:
        r"""XPUB receives `\x01TOPIC` for a subscription and `\x00TOPIC` for its end."""
        while self._socket.poll(0):
            notice = self._socket.recv()
            change = {b"\x01": 1, b"\x00": -1}.get(notice[:1], 0)  # anything else is not for us
            with self._subscribed:
                self._subscriptions[notice[1:]] += change
                if self._subscriptions[notice[1:]] <= 0:
                    del self._subscriptions[notice[1:]]
                self._subscribed.notify_all()


def _bind(sender: zmq.Socket[bytes], config: PublishConfig) -> tuple[str, ...]:
    """Set the options and bind every endpoint; returns what was bound."""
    sender.setsockopt(zmq.SNDHWM, config.send_hwm)
    sender.setsockopt(zmq.XPUB_VERBOSER, 1)  # every subscription is told, so that they can be counted
    sender.setsockopt(zmq.MAXMSGSIZE, MAX_SUBSCRIPTION_BYTES)
    sender.setsockopt(zmq.IPV6, 1)
    bound = []
    for endpoint in config.bind:
        _bind_one(sender, endpoint)
        bound.append(sender.getsockopt_string(zmq.LAST_ENDPOINT))
    return tuple(bound)


def _bind_one(sender: zmq.Socket[bytes], endpoint: str) -> None:
    path = endpoint.removeprefix("ipc://") if endpoint.startswith("ipc://") else None
    if path is not None and _is_served(path):
        raise _cannot_bind(endpoint, errno.EADDRINUSE)
    umask = os.umask(0o117) if path is not None else None  # 0660: the group may connect
    try:
        sender.bind(endpoint)
    except zmq.ZMQError as error:
        raise _cannot_bind(endpoint, error.errno or 0) from error
    finally:
        if umask is not None:
            os.umask(umask)


def _is_served(path: str) -> bool:
    """Whether another process listens there; ZeroMQ would take its path away without a word."""
    if not Path(path).is_socket():
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


FIXES = {
    errno.EADDRINUSE: ("it is in use", "stop the process that holds it, or choose another endpoint"),
    errno.EADDRNOTAVAIL: ("this machine has no such address", "use an address of this machine, or tcp://*"),
    errno.ENODEV: ("this machine has no such address", "use an address of this machine, or tcp://*"),
    errno.EACCES: ("permission denied", "choose a port above 1023, or a directory that this user may write"),
    errno.ENOENT: ("its directory is not there", "make the directory, or choose another path"),
}


def _cannot_bind(endpoint: str, number: int) -> EndpointError:
    why, fix = FIXES.get(number, (os.strerror(number), "write it as tcp://ADDRESS:PORT or ipc:///PATH"))
    return EndpointError(f"{endpoint}: cannot be bound: {why}", wanted="an endpoint that is free", fix=fix)
