"""The XPUB socket: numbers, stamps, encodes and sends, and beats.

Any thread sends with `publish`, one after another under a lock: ZeroMQ sockets are not thread-safe, and
numbering at the only exit is what makes a hole in `seq` mean a loss. Sending never waits, since a subscriber
that is slow loses its own messages (send_hwm) and delays nobody; so no queue and no other thread stands
between a result and the wire. One thread beats and reads subscriptions.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
import uuid
from collections.abc import Callable

import msgspec
import zmq

from qzd_client import messages
from qzd_daemon.config.schema import PublishConfig
from qzd_daemon.transport.listener import Limits, Listener

__all__ = ["Publisher"]

log = logging.getLogger(__name__)

MAX_SUBSCRIPTION_BYTES = 1024
MAX_SUBSCRIPTIONS = 100_000  # of all subscribers together: libzmq keeps each in memory
SUBSCRIPTIONS_KEPT = 16  # from each peer: with more, libzmq takes in more than is read where one floods it
BATCH = 256  # subscriptions that are read before others may send
LOOK_SECONDS = 0.02  # how soon a subscription is noticed; libzmq heeds it at once
SOON_SECONDS = 0.05  # a new subscriber gets a heartbeat within this time


class Publisher:
    """Numbers messages by topic and sends them; beats every `heartbeat_ms`.

    Parameters
    ----------
    config : PublishConfig
    listener : Listener
    sent : callable
        Called with each message that was sent, heartbeats apart; one call at a time, on any thread.

    Attributes
    ----------
    epoch : str
        The uuid of this run.
    endpoints : tuple of str
        What is bound, with the ports that were chosen where the configuration says `:*`.
    last : dict
        The last message of each topic, as it was sent; heartbeats apart.

    Raises
    ------
    EndpointError
        An endpoint is in use, or cannot be bound.
    """

    def __init__(
        self,
        config: PublishConfig,
        listener: Listener,
        sent: Callable[[messages.Message], None] = lambda _: None,
    ) -> None:
        self.epoch = str(uuid.uuid4())
        self.last: dict[str, bytes] = {}
        self._config = config
        self._sent = sent
        limits = Limits(MAX_SUBSCRIPTION_BYTES, config.max_connections, config.send_hwm, SUBSCRIPTIONS_KEPT)
        self._listener = listener
        self._bound_socket = listener.open("publish", zmq.XPUB, config.bind, limits)
        self.endpoints = self._bound_socket.endpoints
        self._socket = self._bound_socket.socket
        self._socket.setsockopt(zmq.XPUB_VERBOSER, 1)  # each subscription is told, so that they are counted
        self._lock = threading.Lock()
        self._sequence: dict[str, int] = {}
        self._beats = 0
        self._next_beat = 0.0
        self._subscriptions: collections.Counter[bytes] = collections.Counter()
        self._subscribed = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="qzd-publisher")

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def publish(self, topic: str, message: messages.Message) -> None:
        """Send a message, from any thread; after `close` it is thrown away."""
        with self._lock:
            if self._stopping.is_set():
                return
            seq = self._sequence.get(topic, 0) + 1
            stamped, payload = self._encode(message, seq)
            self._sequence[topic] = seq  # what cannot be encoded leaves no hole
            self._send(topic, payload)
            self.last[topic] = payload
            self._sent(stamped)

    @property
    def sequence(self) -> dict[str, int]:
        """The last seq of every topic, heartbeats apart."""
        return dict(self._sequence)

    @property
    def subscriptions(self) -> int:
        """Subscriptions to detections, of all subscribers."""
        with self._subscribed:
            return self._detection_subscriptions()

    def wait_for_subscriptions(self, count: int, timeout: float) -> bool:
        """Wait until so many subscriptions to detections are there; False after `timeout` seconds."""
        end = time.monotonic() + timeout
        with self._subscribed:
            while self._detection_subscriptions() < count:
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._subscribed.wait(min(left, LOOK_SECONDS))  # the door notes connections by itself
        return True

    def _detection_subscriptions(self) -> int:
        """Of a topic never more than there are connections.

        Who subscribes to it twice is told twice by libzmq, and once at the end.
        """
        prefix = messages.DETECTIONS.encode()
        matching = (t for t in self._subscriptions if t.startswith(prefix) or prefix.startswith(t))
        connections = self._listener.connections[self._bound_socket.name]
        return sum(min(self._subscriptions[topic], connections) for topic in matching)

    def close(self) -> None:
        """Send a last heartbeat, then close; the door waits for `linger_ms`."""
        with self._lock:
            self._stopping.set()
            self._beat("stopping")
        if self._thread.ident is not None:
            self._thread.join()
        self._bound_socket.close(self._config.linger_ms)

    def _run(self) -> None:
        interval = self._config.heartbeat_ms / 1e3
        while not self._stopping.wait(min(LOOK_SECONDS, interval / 2)):
            with self._lock:
                self._bound_socket.refresh()
                if time.monotonic() >= self._next_beat and not self._stopping.is_set():
                    self._beat("serving")
                    self._next_beat = time.monotonic() + interval
                self._read_subscriptions(BATCH)

    def _beat(self, state: messages.BeatState) -> None:
        """A heartbeat lists the other topics, and so has its own count apart from theirs."""
        self._beats += 1
        beat = messages.Heartbeat(state=state, interval_ms=self._config.heartbeat_ms, topics=self._sequence)
        self._send(messages.HEARTBEAT, self._encode(beat, self._beats)[1])

    def _encode(self, message: messages.Message, seq: int) -> tuple[messages.Message, bytes]:
        stamped = msgspec.structs.replace(message, epoch=self.epoch, seq=seq, published_ns=time.time_ns())
        return stamped, messages.encode(stamped)

    def _send(self, topic: str, payload: bytes) -> None:
        self._socket.send(topic.encode(), zmq.SNDMORE | zmq.NOBLOCK)
        self._socket.send(payload, zmq.NOBLOCK)

    def _read_subscriptions(self, most: int) -> None:
        r"""XPUB receives `\x01TOPIC` for a subscription and `\x00TOPIC` for its end."""
        for _ in range(most):
            try:
                notice = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            change = {b"\x01": 1, b"\x00": -1}.get(notice[:1], 0)  # anything else is not for us
            self._count(notice[1:], change)
            if change > 0 and messages.HEARTBEAT.encode().startswith(notice[1:]):  # to tell who is here
                self._next_beat = min(self._next_beat, time.monotonic() + SOON_SECONDS)

    def _count(self, topic: bytes, change: int) -> None:
        with self._subscribed:
            self._subscriptions[topic] += change
            if self._subscriptions[topic] <= 0:
                del self._subscriptions[topic]
            too_many = len(self._subscriptions) > MAX_SUBSCRIPTIONS
            if too_many:
                self._subscriptions.clear()
            self._subscribed.notify_all()
        if too_many:
            log.error("more than %d subscriptions: every subscriber is put out", MAX_SUBSCRIPTIONS)
            self._bound_socket.disconnect("")
