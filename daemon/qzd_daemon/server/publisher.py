"""The XPUB socket: numbers, stamps, encodes and sends, and beats.

Any thread sends with `publish`, one after another under a lock: ZeroMQ sockets are not thread-safe, and
numbering at the only exit is what makes a hole in `seq` mean a loss. Sending never waits, since a subscriber
that is slow loses its own messages (send_hwm) and delays nobody; so no queue and no other thread stands
between a result and the wire. One thread beats and reads subscriptions.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable

import msgspec
import zmq

from qzd_client import messages
from qzd_daemon.config.schema import PublishConfig
from qzd_daemon.server.subscriptions import Subscriptions
from qzd_daemon.system.threads import NamedThread
from qzd_daemon.transport.listener import Limits, Listener

__all__ = ["Publisher"]

log = logging.getLogger(__name__)

MAX_SUBSCRIPTION_BYTES = 512  # the longest topic has 147, and INITIATE of CURVE about 300
SUBSCRIPTIONS_KEPT = 4  # from each peer: libzmq takes in all that it can read before it lets us count
BATCH = 256  # subscriptions that are read before others may send
LOOK_SECONDS = 0.02  # how soon a start that waits for subscribers notices that a connection has ended
MORE_SECONDS = 0.005  # between looks for more subscriptions: libzmq does not signal each that follows one
QUIET_SECONDS = 0.5  # without a subscription, until the next one is waited for
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
        self._bound_socket = listener.open("publish", zmq.XPUB, config.bind, limits)
        self.endpoints = self._bound_socket.endpoints
        self._socket = self._bound_socket.socket
        self._socket.setsockopt(zmq.XPUB_VERBOSER, 1)  # each subscription is told, so that they are counted
        self._lock = threading.Lock()
        self._sequence: dict[str, int] = {}
        self._beats = 0
        self._next_beat = 0.0
        self._subscriptions = Subscriptions(self._bound_socket.connections)
        self._stopping = threading.Event()
        self._thread = NamedThread("qzd-publisher", self._run)

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
            if self._bound_socket.has_unread:
                self._bound_socket.wake()

    @property
    def sequence(self) -> dict[str, int]:
        """The last seq of every topic, heartbeats apart."""
        return dict(self._sequence)

    @property
    def subscriptions(self) -> int:
        """Subscriptions to detections, of all subscribers."""
        with self._subscriptions.changed:
            return self._subscriptions.matching(messages.DETECTIONS.encode())

    def wait_for_subscriptions(self, count: int, timeout: float) -> bool:
        """Wait until `count` subscriptions to detections exist; return False after `timeout` seconds."""
        end = time.monotonic() + timeout
        with self._subscriptions.changed:
            while self._subscriptions.matching(messages.DETECTIONS.encode()) < count:
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._subscriptions.changed.wait(min(left, LOOK_SECONDS))  # connections change by themselves
        return True

    def close(self) -> None:
        """Send a last heartbeat, then close; the socket waits for `linger_ms`."""
        with self._lock:
            self._stopping.set()
            self._beat("stopping")
        self._bound_socket.wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._bound_socket.close(self._config.linger_ms)

    def _run(self) -> None:
        interval = self._config.heartbeat_ms / 1e3
        quiet_at = 0.0
        while not self._stopping.is_set():
            with self._lock:
                self._bound_socket.refresh()
                if time.monotonic() >= self._next_beat and not self._stopping.is_set():
                    self._beat("serving")
                    self._next_beat = time.monotonic() + interval
                if self._read_subscriptions(BATCH):
                    quiet_at = time.monotonic() + QUIET_SECONDS
                more = self._bound_socket.has_unread
            now = time.monotonic()
            pause = MORE_SECONDS if now < quiet_at else max(0.0, self._next_beat - now)
            self._bound_socket.wait_outside(0.0 if more else pause)

    def _beat(self, state: messages.BeatState) -> None:
        """Send a heartbeat; it lists the other topics, and so has a count of its own."""
        self._beats += 1
        beat = messages.Heartbeat(state=state, interval_ms=self._config.heartbeat_ms, topics=self._sequence)
        self._send(messages.HEARTBEAT, self._encode(beat, self._beats)[1])

    def _encode(self, message: messages.Message, seq: int) -> tuple[messages.Message, bytes]:
        stamped = msgspec.structs.replace(message, epoch=self.epoch, seq=seq, published_ns=time.time_ns())
        payload = messages.encode(stamped)
        if len(payload) > messages.MAX_MESSAGE_BYTES:  # every client would close its connection
            raise ValueError(f"a message of {len(payload)} bytes, more than {messages.MAX_MESSAGE_BYTES}")
        return stamped, payload

    def _send(self, topic: str, payload: bytes) -> None:
        self._socket.send(topic.encode(), zmq.SNDMORE | zmq.NOBLOCK)
        self._socket.send(payload, zmq.NOBLOCK)

    def _read_subscriptions(self, most: int) -> bool:
        """Read at most `most` subscriptions; return whether there was one."""
        for number in range(most):
            try:
                topic = self._subscriptions.read(self._socket.recv(zmq.NOBLOCK, copy=False))
            except zmq.Again:
                return number > 0
            if topic is not None and messages.HEARTBEAT.encode().startswith(topic):  # to say who is here
                self._next_beat = min(self._next_beat, time.monotonic() + SOON_SECONDS)
        return True
