"""What subscribers have subscribed to: counted by topic, and bounded in bytes per peer.

libzmq keeps every subscription in memory, about 50 bytes for each byte of a topic. A peer that takes too much
of it loses its connection, and with it all that libzmq has kept for it.
"""

from __future__ import annotations

import collections
import logging
import threading
from dataclasses import dataclass

import zmq

from qzd_daemon.transport.connections import Connections

__all__ = ["Subscriptions"]

log = logging.getLogger(__name__)

MAX_PEER_BYTES = 1 << 18  # a client of 1000 streams has 150,000
MAX_BYTES = 1 << 22  # of all peers together: 200 MB in libzmq


@dataclass(slots=True)
class _Peer:
    serial: int
    taken: int = 0


class Subscriptions:
    """Counts subscriptions and closes the connections of peers that have too many.

    Parameters
    ----------
    connections : Connections
        Of the XPUB socket.

    Attributes
    ----------
    changed : Condition
        Notified at each change; hold it to read `matching`.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._topics: collections.Counter[bytes] = collections.Counter()
        self._peers: dict[int, _Peer] = {}
        self._taken = 0
        self.changed = threading.Condition()

    def read(self, notice: zmq.Frame) -> bytes | None:
        r"""Note a message of XPUB, `\x01TOPIC` or `\x00TOPIC`.

        Returns
        -------
        bytes or None
            The topic of a new subscription.
        """
        content = notice.bytes
        change = {b"\x01": 1, b"\x00": -1}.get(content[:1], 0)  # other messages are not for the publisher
        topic = content[1:]
        with self.changed:
            self._topics[topic] += change
            if self._topics[topic] <= 0:
                del self._topics[topic]
            self.changed.notify_all()
        self._charge(_file_of(notice), change * len(topic))
        return topic if change > 0 else None

    def matching(self, prefix: bytes) -> int:
        """Count the subscriptions that a topic with this prefix may match.

        A topic counts at most once per connection: if a peer subscribes to it twice, libzmq reports two
        subscriptions but only one end.
        """
        total = self._connections.total
        topics = (t for t in self._topics if t.startswith(prefix) or prefix.startswith(t))
        return sum(min(self._topics[topic], total) for topic in topics)

    def _charge(self, file: int | None, size: int) -> None:
        """Account for a subscription; without a file number, its peer has left."""
        if file is None:
            return
        serial = self._connections.serial(file)
        peer = self._peers.get(file)
        if peer is None or peer.serial != serial:  # the number belongs to another peer now
            self._taken -= peer.taken if peer else 0
            peer = self._peers[file] = _Peer(serial)
        size = max(size, -peer.taken)
        peer.taken += size
        self._taken += size
        if peer.taken > MAX_PEER_BYTES:
            self._close(file)
        elif self._taken > MAX_BYTES:
            self._forget_those_that_left()
            if self._taken > MAX_BYTES:
                self._close(max(self._peers, key=lambda file: self._peers[file].taken))

    def _forget_those_that_left(self) -> None:
        left = [file for file in self._peers if not self._connections.is_open(file)]
        for file in left:
            self._taken -= self._peers.pop(file).taken

    def _close(self, file: int) -> None:
        taken = self._peers.pop(file).taken
        self._taken -= taken
        log.error("a subscriber with %d bytes of subscriptions is disconnected", taken)
        self._connections.close(file)


def _file_of(notice: zmq.Frame) -> int | None:
    """Return the file number of the peer's connection, which libzmq keeps with each message."""
    try:
        return int(notice.get("__fd"))
    except zmq.ZMQError:
        return None
