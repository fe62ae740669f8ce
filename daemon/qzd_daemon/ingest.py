"""The ingest socket: frames that others send, each for the stream that it names, answered once.

What may live here: the way of a frame from the socket (`reception`) to its stream's source (`sent`).
"""

from __future__ import annotations

import collections
import time

from qzd_daemon.calls import Fault, FrameHeader
from qzd_daemon.config import IngestConfig
from qzd_daemon.door import Door
from qzd_daemon.reception import Asked, Reception
from qzd_daemon.sent import Arrived, Inlets

__all__ = ["Ingest"]


class Ingest:
    """Takes frames until it is closed.

    Parameters
    ----------
    config : IngestConfig
    door : Door

    Attributes
    ----------
    endpoints : tuple of str
    inlets : Inlets
        Where the sources of streams find their frames.
    refused : Counter
        Frames that were refused, by the fault's code.

    Raises
    ------
    EndpointError
        An endpoint cannot be bound.
    """

    def __init__(self, config: IngestConfig, door: Door) -> None:
        self.inlets = Inlets(config.max_pixels)
        self._reception = Reception("ingest", config, door, FrameHeader, self._take)
        self.endpoints = self._reception.endpoints
        self.refused: collections.Counter[str] = self._reception.refused
        self._stopping = False

    def start(self) -> None:
        """Begin to take frames, if there is an endpoint."""
        self._reception.start()

    def refuse(self) -> None:
        """The daemon stops: take nothing more. What was taken is still answered, until `close`."""
        self._stopping = True

    def close(self) -> None:
        """Answer no more."""
        self._reception.close()

    def _take(self, asked: Asked[FrameHeader]) -> Fault | None:
        if self._stopping:
            return Fault("stopping", "the daemon stops. To fix: send the frame again when it is back")
        answer = lambda said: self._reception.answer(asked, said)  # noqa: E731
        return self.inlets.give(Arrived(asked.header, asked.image, answer, time.time_ns()))
