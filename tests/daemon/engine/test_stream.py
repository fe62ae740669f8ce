"""The thread of a stream, when its source raises an error that nothing expects."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Literal

import pytest

from qzd_client import messages
from qzd_daemon.config.schema import StreamConfig
from qzd_daemon.engine.lane import FrameJob, Lane
from qzd_daemon.engine.queues import FairQueue
from qzd_daemon.engine.stream import Stream
from qzd_daemon.sources.frames import SourceFrame, SourceState
from support.tiny_model import paint


class Faulty:
    """A source with a fault of its own."""

    live, end, complete, closed = True, "", True, False

    def frames(self, _: threading.Event) -> Iterator[SourceState]:
        yield SourceState("running")
        raise ValueError("a fault")

    def close(self) -> None:
        self.closed = True


class Damaged:
    """A source with a picture that is whole, one that is not, and one that is lost."""

    live, end, complete = False, "end of file", False

    def frames(self, _: threading.Event) -> Iterator[SourceFrame | SourceState]:
        yield SourceState("running")
        yield SourceFrame(paint())
        yield SourceFrame(paint(), "a packet is damaged", absent=2)
        yield SourceFrame(None, "a packet gave no picture")

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("on_damage", "counts"), [("damaged", (1, 1)), ("error", (0, 2))])
def test_stream_when_pictures_are_not_whole_counts_them_as_it_is_configured(
    on_damage: Literal["damaged", "error"], counts: tuple[int, int]
) -> None:
    jobs: list[FrameJob] = []
    ended = threading.Event()
    queue: FairQueue[FrameJob] = FairQueue()
    lane = Lane("s", "m", queue, "wait", lambda *_: None)
    config = StreamConfig(source="/clip.mp4", model="m", on_damage=on_damage)
    stream = Stream("s", config, Damaged(), [lane], lambda *_: None, ended.set)
    stream.start()
    while len(jobs) < 3:
        assert queue.wait()
        jobs += [queued.item for queued in lane.queue.empty()]
    stream.stop()
    assert stream.join(20)
    assert [job.captured.reason for job in jobs] == [None, "a packet is damaged", "a packet gave no picture"]
    assert [job.captured.frame is None for job in jobs] == [False, on_damage == "error", True]
    tally = stream.tally
    assert (tally.frames, tally.damaged, tally.undecodable, tally.absent) == (3, *counts, 2)
    assert tally.whole_ns == jobs[0].captured.captured_ns


def test_stream_when_its_source_has_a_fault_fails_alone_and_says_so() -> None:
    said: list[messages.Message] = []
    ended = threading.Event()
    source = Faulty()
    config = StreamConfig(source="rtsp://camera", model="m")
    stream = Stream("s", config, source, [], lambda _, message: said.append(message), ended.set)
    stream.start()
    assert ended.wait(20)
    assert stream.join(20)
    states = [(s.state, s.reason) for s in said if isinstance(s, messages.StreamState)]
    assert states == [("running", None), ("failed", "ValueError: a fault")]
    assert (stream.failed, stream.finished, source.closed) == (True, True, True)
