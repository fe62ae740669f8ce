"""One thread a model: it waits for an idle request, then gives it the frame whose turn it is.

The request comes first and the frame second, so that the frame is the newest there is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from qzd_client.requests import WhenBehind
from qzd_daemon.engine.faults import DeviceFaults
from qzd_daemon.engine.lane import FrameJob, Lane, NoResult, Publish, ResultSink
from qzd_daemon.engine.models import LoadedModel
from qzd_daemon.engine.queues import FairQueue, QueuedItem
from qzd_daemon.engine.requests import RequestLane
from qzd_ext.detector import Result
from qzd_ext.errors import DeviceError, QzdError
from qzd_ext.runner import Slot

__all__ = ["Scheduler"]

log = logging.getLogger(__name__)

LOOK_UP_SECONDS = 0.2  # how often a thread that waits looks whether it shall stop


@dataclass(frozen=True, slots=True, eq=False)
class _UnderWay:
    """A frame that a device is busy with."""

    lane: ResultSink
    queued: QueuedItem[FrameJob]
    served: LoadedModel
    queue_ms: float
    started: float


class Scheduler:
    """Serves the streams of one model in turn.

    Parameters
    ----------
    name : str
        The model's.
    served : LoadedModel
        Owned from here on.
    failed : callable
        Called once, with the model that serves, when its device fails again and again.
    recovered : callable
        Called after `keep_device`, when its device answers again.
    """

    def __init__(
        self,
        name: str,
        served: LoadedModel,
        failed: Callable[[LoadedModel], None],
        recovered: Callable[[LoadedModel], None],
    ) -> None:
        self.name = name
        self.served = served
        self._failed = failed
        self._recovered = recovered
        self._faults = DeviceFaults()
        self._fair_queue: FairQueue[FrameJob] = FairQueue()
        self.request_lane = RequestLane(self._fair_queue)
        self._given_up = 0  # frames of the present model whose requests have not come back
        self._under_way: dict[QueuedItem[FrameJob], _UnderWay] = {}
        self._next: LoadedModel | None = None
        self._switched = threading.Event()
        self._stopping = threading.Event()
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name=f"qzd-model-{name}", daemon=True)

    def lane(self, stream: str, when_behind: WhenBehind, publish: Publish) -> Lane:
        """A way for a stream's frames through this model."""
        return Lane(stream, self.name, self._fair_queue, when_behind, publish)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def swap(self, served: LoadedModel, timeout: float) -> None:
        """Serve with another model from the next frame on, then let go of the one before.

        No frame is lost or answered twice: those under way end on the model that they were started on.
        Owned from here on; where this was stopped already, it is closed at once.
        """
        before = self.served
        self._switched.clear()
        self._next = served
        while not self._switched.wait(LOOK_UP_SECONDS) and self._thread.is_alive():
            pass
        if not self._switched.is_set():  # it was stopped meanwhile, and `stop` lets go of the one before
            served.detector.close()
        elif not _close_detector(before, timeout):
            log.error("model %s: the one before still has frames under way; it is left behind", self.name)

    @property
    def hung(self) -> bool:
        """Whether every request of the model is busy with a frame that was given up."""
        return self._given_up >= self.served.detector.requests

    def give_up(self, older_than: float) -> int:
        """Answer for the frames that a device has been busy with for so many seconds; returns how many."""
        now = time.monotonic()
        late = [u for u in list(self._under_way.values()) if now - u.started > older_than]
        for frame in late:
            reason = f"the device {frame.served.info.device} has not answered for {now - frame.started:.1f} s"
            self._answer_for(frame, NoResult("error", reason))
        return len(late)

    def skip(self, lane: Lane) -> None:
        """Answer for the frames of a lane that wait, and for those that a device is busy with."""
        gone = NoResult("skipped", "its stream was removed before it was done")
        for queued in lane.queue.empty():
            lane.finish(queued, self.served, 0.0, gone)
        for frame in [u for u in list(self._under_way.values()) if u.lane is lane]:
            self._answer_for(frame, gone)

    def _answer_for(self, frame: _UnderWay, unknown: NoResult) -> None:
        """In the place of its device, unless that has just answered."""
        if self._under_way.pop(frame.queued, None) is not None:
            self._given_up += frame.served is self.served
            frame.lane.finish(frame.queued, frame.served, frame.queue_ms, unknown)

    def ask_to_stop(self) -> None:
        """Take nothing more; `stop` waits for what is there."""
        self.request_lane.close()
        self._stopping.set()
        self._fair_queue.close()

    def stop(self, timeout: float) -> bool:
        """Finish the frames that wait and those under way, and let go of the model.

        Returns
        -------
        bool
            False when `timeout` seconds were not enough; the frames under way are then given up.
        """
        end = time.monotonic() + timeout
        self.ask_to_stop()
        if self._thread.ident is not None:
            self._thread.join(self._time_until(end))
        if not self._thread.is_alive() and _close_detector(self.served, self._time_until(end)):
            return True
        log.error("model %s: frames were still under way after %.1f s", self.name, max(0.0, timeout))
        self._abandoned = True
        self.give_up(0.0)
        self._skip_waiting()
        return False

    def _time_until(self, end: float) -> float:
        """Seconds; a few where no frame is left, and only threads have to see it."""
        least = 0.0 if self._under_way or self._fair_queue.ready else LOOK_UP_SECONDS
        return max(least, end - time.monotonic())

    def _skip_waiting(self) -> None:
        while (queued := self._fair_queue.take()) is not None:
            queued.item.lane.finish(queued, self.served, 0.0, NoResult("skipped", "stopped before its turn"))

    def _run(self) -> None:
        while True:
            self._switch()
            slot = self.served.detector.acquire(LOOK_UP_SECONDS)
            if self._abandoned:
                return
            if slot is None:
                continue
            queued = self._fair_queue.take()
            if queued is not None:
                self._start(slot, queued)
                continue
            self.served.detector.release(slot)
            if self._stopping.is_set():
                self._switch()
                return
            self._fair_queue.wait(LOOK_UP_SECONDS)  # without a request: a self-test may want it

    def _switch(self) -> None:
        """Between two frames, take the model that was put beside the one that serves."""
        if self._next is not None:
            self.served, self._next = self._next, None
            self._given_up = 0
            self._faults.reset()
            self._switched.set()

    def _start(self, slot: Slot, queued: QueuedItem[FrameJob]) -> None:
        served = self.served
        lane, captured = queued.item.lane, queued.item.captured
        queue_ms = (time.perf_counter() - captured.ready) * 1e3
        if captured.frame is None:
            served.detector.release(slot)
            reason = captured.reason or "the frame could not be decoded"
            lane.finish(queued, served, queue_ms, NoResult("error", reason))
            return
        frame = _UnderWay(lane, queued, served, queue_ms, time.monotonic())
        self._under_way[queued] = frame
        try:
            served.detector.start(slot, captured.frame, lambda outcome: self._done(frame, outcome))
        except Exception as error:  # one frame must not end the model's service
            log.exception("model %s: a frame of stream %s could not be started", self.name, lane.stream)
            self._done(frame, DeviceError(f"{type(error).__name__}: {error}"))

    def _done(self, frame: _UnderWay, outcome: Result | QzdError) -> None:
        if self._under_way.pop(frame.queued, None) is None:  # it was given up, and is answered for
            self._given_up -= frame.served is self.served
            return
        known = outcome if isinstance(outcome, Result) else NoResult("error", str(outcome))
        frame.lane.finish(frame.queued, frame.served, frame.queue_ms, known)
        if frame.served is not self.served:
            return
        if isinstance(outcome, DeviceError):
            if self._faults.note_fault():
                self._failed(frame.served)
        elif self._faults.note_answer():
            self._recovered(frame.served)

    def keep_device(self) -> None:
        """Keep the device that failed, since no other takes over; it may answer again."""
        self._faults.keep()

    def pass_self_test(self) -> None:
        """Note that the model passed a self-test: a failed device that was kept is trusted again."""
        if self._faults.pass_self_test():
            self._recovered(self.served)


def _close_detector(served: LoadedModel, timeout: float) -> bool:
    """Wait for a model's frames under way and close it; False when it is left as it is."""
    if not served.detector.drain(max(0.0, timeout)):
        return False
    served.detector.close()
    return True
