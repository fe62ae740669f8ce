"""The ingest socket: takes frames that peers send, each for the stream that it names, and answers once."""

from __future__ import annotations

import collections
import time

from qzd_client.requests import ErrorBody, FrameHeader
from qzd_daemon.config.schema import IngestConfig
from qzd_daemon.server.image_requests import PendingRequest, RequestServer
from qzd_daemon.sources.ingest import IngestRegistry, ReceivedFrame
from qzd_daemon.system.memory import NO_MEMORY, Memory
from qzd_daemon.transport.listener import Listener

__all__ = ["Ingest"]


class Ingest:
    """Takes frames until it is closed.

    Parameters
    ----------
    config : IngestConfig
    listener : Listener
    memory : Memory, optional
        What decoded frames must find room in.

    Attributes
    ----------
    endpoints : tuple of str
    registry : IngestRegistry
        Where the sources of streams find their frames.
    refused : Counter
        Frames that were refused, by the fault's code.

    Raises
    ------
    EndpointError
        An endpoint cannot be bound.
    """

    def __init__(self, config: IngestConfig, listener: Listener, memory: Memory | None = None) -> None:
        self.registry = IngestRegistry(config.max_pixels, memory)
        self._server = RequestServer("ingest", config, listener, FrameHeader, self._take)
        self.endpoints = self._server.endpoints
        self.refused: collections.Counter[str] = self._server.refused
        self._stopping = False

    def start(self) -> None:
        """Begin to take frames, if there is an endpoint."""
        self._server.start()

    def refuse(self) -> None:
        """Take no more frames, since the daemon stops; until `close` those taken are still answered."""
        self._stopping = True

    def close(self) -> None:
        """Stop answering."""
        self._server.close()

    def _take(self, asked: PendingRequest[FrameHeader]) -> ErrorBody | None:
        if self._stopping:
            return ErrorBody("stopping", "the daemon stops. To fix: send the frame again when it is back")
        with self.registry.memory.reserve(0) as granted:
            if not granted:
                return NO_MEMORY
        answer = lambda said: self._server.answer(asked, said)  # noqa: E731
        return self.registry.give(ReceivedFrame(asked.header, asked.image, answer, time.time_ns()))
