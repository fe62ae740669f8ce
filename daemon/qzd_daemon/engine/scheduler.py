"""Two threads per model: a starter gives frames to the device, a finisher takes the results in that order.

The starter waits for a frame, then for an idle infer request, and only then takes the frame whose turn it is,
so that it is the newest one. The finisher waits for the requests in the order of their starts, and publishes.
So each stream's frames are published in order, whatever ends first on the device.

Everything else that happens to a model goes through the queue between the two threads as well, and so has its
place in that order: a frame that needs no device, the change to another model, the end.
"""

from __future__ import annotations

import collections
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from qzd_daemon.config.schema import StreamConfig
from qzd_daemon.engine.faults import DeviceFaults
from qzd_daemon.engine.lane import FrameJob, Lane, Look, NoResult, Publish
from qzd_daemon.engine.models import LoadedModel
from qzd_daemon.engine.queues import FairQueue, QueuedItem
from qzd_daemon.engine.requests import RequestLane
from qzd_daemon.system.threads import NamedThread
from qzd_ext.detector import Result, Run
from qzd_ext.errors import DeviceError, QzdError
from qzd_ext.runner import Slot

__all__ = ["Scheduler"]

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.25  # of one wait for a device; in between, the finisher looks whether it was told to stop
LATE = 1.25  # times what is usual
USUAL_SHARE = 0.1  # of the last frame in what is usual
LOOK_SECONDS = 0.05  # how soon the end of a request that hung is noticed, before its model is closed


@dataclass(slots=True, eq=False)
class _Started:
    """A frame that a device is busy with."""

    queued: QueuedItem[FrameJob]
    served: LoadedModel
    queue_ms: float
    run: Run
    outcome: Result | QzdError | None = None
    """Known before its turn, if the frame before it is late."""


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """A frame that needs no device: its outcome is known already."""

    queued: QueuedItem[FrameJob]
    served: LoadedModel
    queue_ms: float
    outcome: NoResult | QzdError


@dataclass(frozen=True, slots=True, eq=False)
class _Swap:
    """Another model for the next frame; `done` is set after the last frame of the one before."""

    served: LoadedModel
    done: threading.Event = field(default_factory=threading.Event)


_Step: TypeAlias = _Started | _Known | _Swap | None


class Scheduler:
    """Serves the streams and requests of one model in turn.

    Parameters
    ----------
    name : str
        The model's.
    served : LoadedModel
        Owned from here on.
    failed : callable
        Called once, with the model that serves, when its device fails again and again.
    recovered : callable
        Called after `keep_device`, when the device answers again.
    timeout : float
        Seconds that a device may take for a frame, from its start. Then the frame becomes an `error`.
    """

    def __init__(
        self,
        name: str,
        served: LoadedModel,
        failed: Callable[[LoadedModel], None],
        recovered: Callable[[LoadedModel], None],
        timeout: float,
    ) -> None:
        self.name = name
        self.served = served
        self.timeout = timeout
        self._failed = failed
        self._recovered = recovered
        self._faults = DeviceFaults()
        self._fair_queue: FairQueue[FrameJob] = FairQueue()
        self.request_lane = RequestLane(self._fair_queue)
        self._steps: queue.SimpleQueue[_Step] = queue.SimpleQueue()
        self._in_order = threading.Lock()  # held from the taking of a frame until its step is queued
        self._begun = self._done = 0  # frames that were taken, and those of them that were handed on
        self._late: list[_Started] = []  # given up; their requests have not come back
        self._ahead: collections.deque[_Step] = collections.deque()  # steps that were read before their turn
        self._usual = WAIT_SECONDS  # that a frame is in the device
        self._next: _Swap | None = None
        self._abandoned = self._ended = False
        self._starter = NamedThread(f"qzd-start-{name}", self._start_frames)
        self._finisher = NamedThread(f"qzd-finish-{name}", self._finish_frames)

    def lane(self, stream: str, config: StreamConfig, publish: Publish, look: Look | None) -> Lane:
        """Return a lane for a stream's frames through this model."""
        return Lane(stream, self.name, self._fair_queue, config.policy, publish, look, config)

    def start(self) -> None:
        """Begin to serve."""
        self._starter.start()
        self._finisher.start()

    @property
    def hung(self) -> bool:
        """Return whether every request of the model is busy with a frame that was given up."""
        return self._count_late(self.served) >= self.served.detector.requests

    def swap(self, served: LoadedModel) -> None:
        """Serve with another model from the next frame on, then close the one before.

        No frame is lost or answered twice: each ends on the model that it was started on. `served` is owned
        from here on; if this scheduler has ended, it is closed at once.
        """
        before, swap = self.served, _Swap(served)
        with self._in_order:
            if self._ended:
                served.detector.close()
                return
            self._next = swap
        before.detector.retire()  # the starter may wait for one of its requests
        self._fair_queue.wake()
        swap.done.wait()  # for the frames in progress, each of which has its timeout
        self._close(before, self.timeout)

    def skip(self, lane: Lane) -> None:
        """Answer the frames of a lane that wait."""
        with self._in_order:
            for queued in lane.queue.empty():
                self._skip(queued, "its stream was removed before it was done")

    def keep_device(self) -> None:
        """Keep the device that failed, since no other takes over; it may answer again."""
        self._faults.keep()

    def pass_self_test(self) -> None:
        """Note that the model passed a self-test: a failed device that was kept is trusted again."""
        if self._faults.pass_self_test():
            self._recovered(self.served)

    def ask_to_stop(self) -> None:
        """Accept nothing more; `stop` waits for the frames that are here."""
        self.request_lane.close()
        self._fair_queue.close()

    def stop(self, timeout: float) -> bool:
        """Finish the frames that wait and those in progress, then close the model.

        Returns
        -------
        bool
            False if `timeout` seconds were not enough: the frames that were left have been given up.
        """
        end = time.monotonic() + timeout
        self.ask_to_stop()
        gave_up = False
        if self._finisher.ident is not None:
            self._finisher.join(max(0.0, end - time.monotonic()))
            gave_up = self._finisher.is_alive() and self._give_up()
        return self._close(self.served, 0.0) and not gave_up

    def _give_up(self) -> bool:
        """End both threads without waiting for devices; return whether this gave up any frame."""
        left = bool(self._fair_queue.ready) or self._begun > self._done
        if left:
            log.error("model %s: frames were still in progress at the end of the time to stop", self.name)
        self._abandoned = True
        self.served.detector.retire()  # the starter may wait for one of its requests
        self._finisher.join(4 * WAIT_SECONDS)
        return left

    def _close(self, served: LoadedModel, timeout: float) -> bool:
        """Close a model, unless its device hangs for so long: OpenVINO would wait for it without an end."""
        end = time.monotonic() + timeout
        while self._count_late(served):
            if time.monotonic() >= end:
                log.error("model %s: device %s hangs and is left behind", self.name, served.info.device)
                return False
            time.sleep(LOOK_SECONDS)
        served.detector.close()
        return True

    def _count_late(self, served: LoadedModel) -> int:
        return sum(frame.served is served for frame in self._late.copy())

    # The starter.

    def _start_frames(self) -> None:
        while self._fair_queue.wait():
            slot = self.served.detector.acquire()
            with self._in_order:
                if slot is not None and not self._start_next(slot):
                    self.served.detector.release(slot)
                self._switch()
            if self._abandoned:
                break
        with self._in_order:
            self._ended = True
            self._switch()
            while (queued := self._fair_queue.take()) is not None:
                self._skip(queued, "stopped before its turn")
        self._steps.put(None)

    def _switch(self) -> None:
        """Take the model that `swap` has put beside the one that serves."""
        if self._next is not None:
            swap, self._next = self._next, None
            self.served = swap.served
            self._faults.reset()
            self._steps.put(swap)

    def _start_next(self, slot: Slot) -> bool:
        """Start the frame whose turn it is; return False if the request is not used."""
        if self._next is not None or self._abandoned:
            return False
        queued = self._fair_queue.take()
        if queued is None:  # it was cancelled meanwhile
            return False
        step = self._start(slot, queued)
        self._begun += 1
        self._steps.put(step)
        return isinstance(step, _Started)

    def _start(self, slot: Slot, queued: QueuedItem[FrameJob]) -> _Started | _Known:
        served, captured = self.served, queued.item.captured
        queue_ms = (time.perf_counter() - captured.ready) * 1e3
        unknown: NoResult | QzdError
        if captured.frame is None:
            unknown = NoResult("error", captured.reason or "the frame could not be decoded")
        else:
            try:
                return _Started(queued, served, queue_ms, served.detector.begin(slot, captured.frame))
            except QzdError as error:
                unknown = error
            except Exception as error:  # one frame must not end the model's service
                log.exception("model %s: a frame of stream %s failed", self.name, queued.item.lane.stream)
                unknown = DeviceError(f"{type(error).__name__}: {error}")
        return _Known(queued, served, queue_ms, unknown)

    def _skip(self, queued: QueuedItem[FrameJob], reason: str) -> None:
        self._begun += 1
        self._steps.put(_Known(queued, self.served, 0.0, NoResult("skipped", reason)))

    # The finisher.

    def _finish_frames(self) -> None:
        while (step := self._next_step()) is not None:
            if isinstance(step, _Swap):
                step.done.set()
            elif isinstance(step, _Known):
                self._hand_on(step, step.outcome)
            else:
                self._finish(step)
            del step  # a thread that waits must not keep the last frame in memory
        while self._late and not self._abandoned:
            self._collect_late(WAIT_SECONDS)

    def _next_step(self) -> _Step:
        """Return the next step. While requests hang, look from time to time whether they have come back."""
        while self._late:
            self._collect_late(0.0)
            if self._ahead:
                break
            try:
                return self._steps.get(timeout=WAIT_SECONDS)
            except queue.Empty:
                pass
        return self._ahead.popleft() if self._ahead else self._steps.get()

    def _collect_late(self, timeout: float) -> None:
        """Release the requests that have come back; wait this number of seconds for each."""
        self._late = [frame for frame in self._late if not self._release_if_back(frame, timeout)]

    def _release_if_back(self, frame: _Started, timeout: float) -> bool:
        try:
            back = frame.run.slot.wait(timeout)
        except DeviceError:
            back = True
        if back:
            frame.served.detector.release(frame.run.slot)
        return back

    def _finish(self, frame: _Started) -> None:
        if frame.outcome is not None:
            self._hand_on(frame, frame.outcome)
            return
        outcome = self._take_result(frame, self._wait_for)
        if outcome is None:
            late = time.perf_counter() - frame.run.prepared
            reason = f"the device {frame.served.info.device} has not answered for {late:.1f} s"
            self._late.append(frame)
            self._hand_on(frame, NoResult("error", reason))
            return
        self._hand_on(frame, outcome)
        # last: the thread that waits for this request wants the GIL, which the message needs first
        frame.served.detector.release(frame.run.slot)

    def _take_result(self, frame: _Started, wait: Callable[[_Started], bool]) -> Result | QzdError | None:
        """Return the result of a frame or the error; None if it has not ended."""
        try:
            if not wait(frame):
                return None
            selection = frame.queued.item.lane.selection(frame.served)
            result = frame.served.detector.result(frame.run, selection.thresholds, selection.floors)
        except QzdError as error:
            return error
        except Exception as error:  # one frame must not end the model's service
            log.exception("model %s: the results of a frame could not be decoded", self.name)
            return DeviceError(f"{type(error).__name__}: {error}")
        self._usual += (result.timing.inference / 1e3 - self._usual) * USUAL_SHARE
        return result

    def _wait_for(self, frame: _Started) -> bool:
        """Wait for a device; False if it has not answered in time, or this scheduler is abandoned.

        Other programs may keep one stream of the device from its CPU. While its frame is later than usual,
        the requests behind it that have ended are released: else the device's other streams would run dry.
        """
        while True:
            now = time.perf_counter()
            left = 0.0 if self._abandoned else frame.run.prepared + self.timeout - now
            patience = max(frame.run.prepared + LATE * self._usual - now, self._usual / 4, 0.001)
            if frame.run.slot.wait(min(max(left, 0.0), patience, WAIT_SECONDS)):
                return True
            if left <= 0:
                return False
            self._release_ended()

    def _release_ended(self) -> None:
        """Take the results of frames before their turn, so that their requests are idle again."""
        while not self._steps.empty():
            self._ahead.append(self._steps.get())
        for step in self._ahead:
            if isinstance(step, _Started) and step.outcome is None:
                step.outcome = self._take_result(step, lambda frame: frame.run.slot.wait(0))
                if step.outcome is not None:
                    step.served.detector.release(step.run.slot)

    def _hand_on(self, frame: _Started | _Known, outcome: Result | NoResult | QzdError) -> None:
        known = NoResult("error", str(outcome)) if isinstance(outcome, QzdError) else outcome
        frame.queued.item.lane.finish(frame.queued, frame.served, frame.queue_ms, known)
        self._done += 1
        if frame.served is self.served and not isinstance(outcome, NoResult):
            self._judge(frame.served, outcome)

    def _judge(self, served: LoadedModel, outcome: Result | QzdError) -> None:
        """Count faults of the device; what is known of it without it says nothing."""
        if isinstance(outcome, DeviceError):
            if self._faults.note_fault():
                self._failed(served)
        elif self._faults.note_answer():
            self._recovered(served)
