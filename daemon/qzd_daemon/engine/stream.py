"""One thread per source: it reads frames, keeps the pace, and puts them into the queues of the models."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from qzd_client import messages
from qzd_client.messages import StreamStateName
from qzd_daemon.config.schema import StreamConfig
from qzd_daemon.engine.lane import FrameJob, Lane, Publish
from qzd_daemon.sources.frames import SourceFrame, SourceState, Tally
from qzd_daemon.sources.open import Source
from qzd_daemon.sources.pacing import Pace
from qzd_daemon.system.threads import NamedThread
from qzd_ext.errors import SourceError

__all__ = ["Stream"]


log = logging.getLogger(__name__)


class Stream:
    """A source that is being read.

    Parameters
    ----------
    name : str
    config : StreamConfig
    source : Source
        Open; owned from here on.
    lanes : sequence of Lane
        Where its frames go.
    publish : callable
        Takes a topic and a message.
    ended : callable
        Called once, when no more frames will come.
    """

    def __init__(
        self,
        name: str,
        config: StreamConfig,
        source: Source,
        lanes: Sequence[Lane],
        publish: Publish,
        ended: Callable[[], None],
    ) -> None:
        self.name = name
        self.config = config
        self.lanes = lanes
        self.state: messages.StreamState | None = None
        self.tally = Tally()
        self.left_out = 0
        self.finished = self.failed = False
        self.complete = True
        self._whole = True  # the last frame
        self._source = source
        self._publish = publish
        self._ended = ended
        self._stopping = threading.Event()
        self._thread = NamedThread(f"qzd-stream-{name}", self._run)

    @property
    def waiting(self) -> int:
        """Frames that wait for its models."""
        return sum(len(lane.queue) for lane in self.lanes)

    def start(self) -> None:
        """Begin to read; nothing happens if it has begun already. Without a thread it has failed."""
        if self._thread.ident is not None or self.finished:
            return
        try:
            self._thread.start()
        except RuntimeError as error:
            self._source.close()
            self.failed = self.finished = True
            self._publish_state("failed", f"{error}: raise TasksMax= or --pids-limit")
            self._ended()

    def stop(self) -> None:
        """Ask the thread to end; `join` waits for it. It says nothing more."""
        self._stopping.set()
        for lane in self.lanes:
            lane.queue.close()

    def join(self, timeout: float) -> bool:
        """Wait for the thread; False when it hangs in its source."""
        if self._thread.ident is None:
            self._source.close()
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def wait_finished(self, timeout: float | None = None, unless: Callable[[], bool] = lambda: False) -> bool:
        """Wait until everything that it has handed over is published; return whether it is.

        Parameters
        ----------
        timeout : float or None
            Seconds, for each lane.
        unless : callable
            Ends the wait too; asked again at `stop`.
        """
        return all(lane.queue.wait_finished(timeout, unless) for lane in self.lanes)

    def _run(self) -> None:
        try:
            self._read()
            self.complete = self._source.complete
            self._publish_last_state("ended", self._source.end)
        except SourceError as error:
            self._fail(str(error))
        except Exception as error:  # one stream must not end the service of the others
            log.exception("stream %s: its source failed", self.name)
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            self._source.close()
            self.finished = True
            self._ended()

    def _fail(self, reason: str) -> None:
        self.failed = True
        self._publish_last_state("failed", reason)

    def _read(self) -> None:
        pace = Pace(self.config.max_fps, real_time=self.config.policy == "drop", live=self._source.live)
        for item in self._source.frames(self._stopping):
            if self._stopping.is_set():
                return
            if isinstance(item, SourceState):
                self._note_state(item)
                continue
            wait = pace.wait(time.monotonic(), item.pts_s)
            if wait:
                if self._stopping.wait(wait):
                    return
                item = item if self._source.live else item.as_of_now()
            self._hand_over(item, leave_out=wait is None)

    def _note_state(self, state: SourceState) -> None:
        """Publish the state of the source; one that has failed is tried again, and is not waited for."""
        self.failed = state.state == "failed"
        self._publish_state(state.state, state.reason)
        if self.failed:
            self._ended()

    def _hand_over(self, captured: SourceFrame, *, leave_out: bool) -> None:
        self._log_damage(captured)
        if self.config.on_damage == "error" and not captured.whole:
            captured = captured.without_picture()
        index = self.tally.frames + captured.left_out
        self.tally.add(captured)
        self.left_out += leave_out
        for lane in self.lanes:
            lane.queue.skip(captured.left_out)
            if leave_out:
                lane.queue.skip()
            else:
                lane.queue.put(FrameJob(lane, index, captured))

    def _log_damage(self, captured: SourceFrame) -> None:
        """Log when damage begins and when it ends, not frame by frame."""
        if captured.whole != self._whole:
            self._whole = captured.whole
            if captured.whole:
                log.info("stream %s: the pictures are whole again", self.name)
            else:
                log.warning("stream %s: frame %d: %s", self.name, self.tally.frames, captured.reason)

    def _publish_last_state(self, state: StreamStateName, reason: str) -> None:
        """End the stream when its last frame is published, not when it was read."""
        self.wait_finished(unless=self._stopping.is_set)
        if not self._stopping.is_set():
            self._publish_state(state, reason)

    def _publish_state(self, state: StreamStateName, reason: str | None = None) -> None:
        level = {"failed": logging.ERROR, "reconnecting": logging.WARNING}.get(state, logging.INFO)
        log.log(level, "stream %s: %s%s", self.name, state, f": {reason}" if reason else "")
        self.state = self.describe(state, reason)
        self._publish(messages.stream_topic(self.name), self.state)

    def describe(self, state: StreamStateName, reason: str | None = None) -> messages.StreamState:
        """Return the message that says this state, with what has been counted until now."""
        return messages.StreamState(
            stream=self.name,
            state=state,
            reason=reason,
            frames=self.tally.frames,
            damaged=self.tally.damaged,
            undecodable=self.tally.undecodable,
            absent=self.tally.absent,
            whole_ns=self.tally.whole_ns,
        )
