"""One thread a model: it waits for an idle request, then gives it the frame whose turn it is.

The request comes first and the frame second, so that the frame is the newest there is. What may live here:
this loop. What waits is in `mailbox`, what becomes of a result in `pipeline`.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Literal

from qzd_daemon.mailbox import Inbox, Mail
from qzd_daemon.models import Served
from qzd_daemon.pipeline import Lane, Publish, Work
from qzd_ext.detector import Result
from qzd_ext.errors import QzdError
from qzd_ext.runner import Slot

__all__ = ["Scheduler"]

log = logging.getLogger(__name__)

LOOK_UP_SECONDS = 0.2  # how often a thread that waits looks whether it shall stop


class Scheduler:
    """Serves the streams of one model in turn.

    Parameters
    ----------
    name : str
        The model's.
    served : Served
        Owned from here on.
    """

    def __init__(self, name: str, served: Served) -> None:
        self.name = name
        self.served = served
        self._inbox: Inbox[Work] = Inbox()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"qzd-model-{name}", daemon=True)

    def lane(self, stream: str, when_behind: Literal["drop", "wait"], publish: Publish) -> Lane:
        """A way for a stream's frames through this model."""
        return Lane(stream, self.name, self._inbox, when_behind, publish)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Finish the frames that wait and those under way, and let go of the model.

        Returns
        -------
        bool
            False when `timeout` seconds were not enough; the model is then left as it is.
        """
        end = time.monotonic() + timeout
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        detector = self.served.detector
        if self._thread.is_alive() or not detector.drain(max(0.0, end - time.monotonic())):
            log.error("model %s: frames were still under way after %g s", self.name, timeout)
            return False
        detector.close()
        return True

    def _run(self) -> None:
        while True:
            slot = self.served.detector.acquire(LOOK_UP_SECONDS)
            if slot is None:
                continue
            mail = self._inbox.take(LOOK_UP_SECONDS)
            if mail is not None:
                self._start(slot, mail)
                continue
            self.served.detector.release(slot)
            if self._stopping.is_set():
                return

    def _start(self, slot: Slot, mail: Mail[Work]) -> None:
        served = self.served
        lane, captured = mail.item.lane, mail.item.captured
        ticket = lane.take(mail)
        queue_ms = (time.perf_counter() - captured.ready) * 1e3

        def done(outcome: Result | QzdError) -> None:
            lane.finish(ticket, served, queue_ms, outcome)

        if captured.frame is None:
            served.detector.release(slot)
            lane.finish(ticket, served, queue_ms, captured.reason or "the frame could not be decoded")
            return
        try:
            served.detector.start(slot, captured.frame, done)
        except Exception as error:  # one frame must not end the model's service
            log.exception("model %s: a frame of stream %s could not be started", self.name, lane.stream)
            lane.finish(ticket, served, queue_ms, f"{type(error).__name__}: {error}")
