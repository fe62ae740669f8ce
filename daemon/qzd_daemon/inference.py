"""Inference on request: images come in, each gets what is in it, or why not.

A few threads decode images; the model's scheduler does the rest. At most `queue` requests are in hand,
whatever callers do. What may live here: the way of an image from the socket (`reception`) to a model's `desk`
and back.
"""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec

from qzd_daemon import wire
from qzd_daemon.calls import Fault, ImageHeader
from qzd_daemon.config import InferenceConfig
from qzd_daemon.desk import Desk
from qzd_daemon.door import Door
from qzd_daemon.images import read_image
from qzd_daemon.reception import STOPPING, Asked, Reception
from qzd_ext.cpus import usable_cpus
from qzd_ext.errors import QzdError

__all__ = ["Inference"]

log = logging.getLogger(__name__)


class Inference:
    """Answers requests until it is closed.

    Parameters
    ----------
    config : InferenceConfig
    door : Door
    epoch : str
        The uuid of this run.
    desks : callable
        The models that serve now, by name.

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
        self, config: InferenceConfig, door: Door, epoch: str, desks: Callable[[], Mapping[str, Desk]]
    ) -> None:
        self._reception = Reception("inference", config, door, ImageHeader, self._take)
        self.refused: collections.Counter[str] = self._reception.refused
        self._config = config
        self._epoch = epoch
        self._desks = desks
        self._decoding: set[Asked[ImageHeader]] = set()
        self._pool = ThreadPoolExecutor(min(config.queue, usable_cpus()), "qzd-image")

    def start(self) -> None:
        """Begin to answer, if there is an endpoint."""
        self._reception.start()

    def close(self) -> None:
        """Take nothing more, and tell those who wait."""
        self._reception.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _take(self, asked: Asked[ImageHeader]) -> Fault | None:
        if len(self._reception.in_hand | self._decoding) >= self._config.queue:
            return Fault("busy", f"{self._config.queue} requests are in hand. To fix: ask again later")
        longest = self._config.timeout_ms
        asked.deadline = time.monotonic() + min(asked.header.timeout_ms or longest, longest) / 1e3
        self._decoding.add(asked)
        self._pool.submit(self._decode, asked)
        return None

    def _decode(self, asked: Asked[ImageHeader]) -> None:
        """On a thread of the pool: from bytes to a frame, and on to the model."""
        try:
            if not asked.answered:
                self._submit(asked)
        except QzdError as error:
            self._refuse(asked, Fault(error.code, str(error)))
        except Exception as error:  # one image must not end the service of the others
            log.exception("a request failed")
            self._refuse(asked, Fault("internal", f"{type(error).__name__}: {error}"))
        finally:
            self._decoded(asked)

    def _refuse(self, asked: Asked[ImageHeader], fault: Fault) -> None:
        self._decoded(asked)
        self._reception.answer(asked, fault)

    def _decoded(self, asked: Asked[ImageHeader]) -> None:
        """To be noted before an answer: whoever has it finds room for the next request."""
        asked.image = memoryview(b"")
        self._decoding.discard(asked)

    def _submit(self, asked: Asked[ImageHeader]) -> None:
        header, desks = asked.header, self._desks()
        name = header.model if header.model is not None or len(desks) != 1 else next(iter(desks))
        if name is None or name not in desks:
            found = "no model is named" if name is None else f"there is no model {name!r}"
            self._refuse(asked, Fault("unknown_model", f"{found}. Wanted: one of {', '.join(desks)}"))
            return
        frame = read_image(header.format, asked.image, header.width, header.height, self._config.max_pixels)
        self._decoded(asked)
        cancel = desks[name].submit(frame, lambda message: self._answer(asked, message))
        if cancel is None:
            gone = Fault("unknown_model", f"model {name!r} is served no more")
            self._reception.answer(asked, STOPPING if name in self._desks() else gone)
            return
        asked.cancel = cancel
        if asked.answered:  # its deadline passed meanwhile
            asked.cancel()

    def _answer(self, asked: Asked[ImageHeader], message: wire.Detections) -> None:
        """From any thread."""
        now = time.time_ns()
        self._reception.answer(asked, msgspec.structs.replace(message, epoch=self._epoch, published_ns=now))
