"""Answer inference requests: each image gets its detections, or the reason why there are none.

A few threads decode images; the model's scheduler does the rest. At most `queue` requests are in
progress, whatever callers do.
"""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec

from qzd_client import messages
from qzd_client.requests import ErrorBody, ImageHeader
from qzd_daemon.config.schema import InferenceConfig
from qzd_daemon.engine.requests import RequestLane
from qzd_daemon.server.image_requests import STOPPING, PendingRequest, RequestServer
from qzd_daemon.system.memory import NO_MEMORY, Memory
from qzd_daemon.system.threads import set_os_name
from qzd_daemon.transport.listener import Listener
from qzd_ext.cpus import usable_cpus
from qzd_ext.errors import QzdError
from qzd_ext.images import frame_bytes, read_image

__all__ = ["Inference"]

log = logging.getLogger(__name__)


class Inference:
    """Answers requests until it is closed.

    Parameters
    ----------
    config : InferenceConfig
    listener : Listener
    epoch : str
        The uuid of this run.
    request_lanes : callable
        The models that serve now, by name.
    memory : Memory, optional
        What decoded images must find room in.

    Attributes
    ----------
    refused : Counter
        Requests that were refused, by the fault's code.

    Raises
    ------
    EndpointError
        An endpoint cannot be bound.
    """

    def __init__(
        self,
        config: InferenceConfig,
        listener: Listener,
        epoch: str,
        request_lanes: Callable[[], Mapping[str, RequestLane]],
        memory: Memory | None = None,
    ) -> None:
        self._server = RequestServer("inference", config, listener, ImageHeader, self._take)
        self.refused: collections.Counter[str] = self._server.refused
        self._config = config
        self._epoch = epoch
        self._request_lanes = request_lanes
        self._memory = memory or Memory()
        self._decoding: set[PendingRequest[ImageHeader]] = set()
        self._pool = ThreadPoolExecutor(
            min(config.queue, usable_cpus()), "qzd-image", set_os_name, ("image",)
        )

    def start(self) -> None:
        """Begin to answer, if there is an endpoint."""
        self._server.start()

    def close(self) -> None:
        """Take no more requests, and refuse those that wait."""
        self._server.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _take(self, asked: PendingRequest[ImageHeader]) -> ErrorBody | None:
        if len(self._server.pending | self._decoding) >= self._config.queue:
            return ErrorBody("busy", f"{self._config.queue} requests are in hand. To fix: ask again later")
        with self._memory.reserve(0) as granted:
            if not granted:
                return NO_MEMORY
        longest = self._config.timeout_ms
        asked.deadline = time.monotonic() + min(asked.header.timeout_ms or longest, longest) / 1e3
        self._decoding.add(asked)
        self._pool.submit(self._decode, asked)
        return None

    def _decode(self, asked: PendingRequest[ImageHeader]) -> None:
        """Decode an image and hand it to the model; runs on a thread of the pool."""
        try:
            if not asked.answered:
                self._submit(asked)
        except QzdError as error:
            self._refuse(asked, ErrorBody(error.code, str(error)))
        except Exception as error:  # one image must not end the service of the others
            log.exception("a request failed")
            self._refuse(asked, ErrorBody("internal", f"{type(error).__name__}: {error}"))
        finally:
            self._decoded(asked)

    def _refuse(self, asked: PendingRequest[ImageHeader], fault: ErrorBody) -> None:
        self._decoded(asked)
        self._server.answer(asked, fault)

    def _decoded(self, asked: PendingRequest[ImageHeader]) -> None:
        """Free the place of a request; before its answer, so that the caller's next request finds room."""
        asked.image = memoryview(b"")
        self._decoding.discard(asked)

    def _submit(self, asked: PendingRequest[ImageHeader]) -> None:
        header, request_lanes = asked.header, self._request_lanes()
        name = (
            header.model if header.model is not None or len(request_lanes) != 1 else next(iter(request_lanes))
        )
        if name is None or name not in request_lanes:
            found = "no model is named" if name is None else f"there is no model {name!r}"
            self._refuse(
                asked, ErrorBody("unknown_model", f"{found}. Wanted: one of {', '.join(request_lanes)}")
            )
            return
        with self._memory.reserve(frame_bytes(header.format, asked.image)) as granted:
            if not granted:
                self._refuse(asked, NO_MEMORY)
                return
            frame = read_image(
                header.format, asked.image, header.width, header.height, self._config.max_pixels
            )
        self._decoded(asked)
        cancel = request_lanes[name].submit(frame, lambda message: self._answer(asked, message))
        if cancel is None:
            gone = ErrorBody("unknown_model", f"model {name!r} is served no more")
            self._server.answer(asked, STOPPING if name in self._request_lanes() else gone)
            return
        asked.cancel = cancel
        if asked.answered:  # its deadline passed meanwhile
            asked.cancel()

    def _answer(self, asked: PendingRequest[ImageHeader], message: messages.Detections) -> None:
        """Answer a request, from any thread."""
        now = time.time_ns()
        self._server.answer(asked, msgspec.structs.replace(message, epoch=self._epoch, published_ns=now))
