"""The daemon's side of the protocol in plain ZeroMQ sockets, for tests of the client without a daemon."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

import zmq

from qzd_client import messages
from qzd_client.closing import Closing

__all__ = ["PlainPublisher", "Replier"]


class Replier(Closing):
    """A ROUTER socket on a thread; `answer` turns the frames of a request into replies, none or several."""

    def __init__(self, endpoint: str, answer: Callable[[list[bytes]], Iterable[list[bytes]]]) -> None:
        self.endpoint = endpoint
        self._answer = answer
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.bind(endpoint)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self._router.poll(20):
                peer, *frames = self._router.recv_multipart()
                for reply in self._answer(frames):
                    self._router.send_multipart([peer, *reply])

    def close(self) -> None:
        """Stop the thread and close the socket."""
        self._stopping.set()
        self._thread.join()
        self._context.destroy(linger=0)


class PlainPublisher(Closing):
    """An XPUB socket that sends messages as they are given, with the seq that the test wants."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.bind(endpoint)

    def wait_for(self, topics: Sequence[str]) -> None:
        """Wait until a subscriber has subscribed to all of these topics."""
        missing = {b"\1" + topic.encode() for topic in topics}
        while missing:
            assert self._socket.poll(20_000), f"no subscription to {missing}"
            missing.discard(self._socket.recv())

    def send(self, topic: str, message: messages.Message) -> None:
        """Send one message."""
        self.send_frames([topic.encode(), messages.encode(message)])

    def send_frames(self, frames: list[bytes]) -> None:
        """Send frames, whatever they are."""
        self._socket.send_multipart(frames)

    def close(self) -> None:
        """Close the socket."""
        self._context.destroy(linger=0)
