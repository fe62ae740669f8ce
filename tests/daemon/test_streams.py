"""The thread of a stream, and what becomes of it when its source fails in a way that nobody foresaw."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from qzd_daemon import wire
from qzd_daemon.captured import Notice
from qzd_daemon.config import StreamConfig
from qzd_daemon.streams import Stream


class Faulty:
    """A source with a fault of its own."""

    live, end, closed = True, "", False

    def frames(self, _: threading.Event) -> Iterator[Notice]:
        yield Notice("running")
        raise ValueError("a fault")

    def close(self) -> None:
        self.closed = True


def test_stream_when_its_source_has_a_fault_fails_alone_and_says_so() -> None:
    said: list[wire.StreamState] = []
    ended = threading.Event()
    source = Faulty()
    config = StreamConfig(source="rtsp://camera", model="m")
    stream = Stream("s", config, source, [], lambda _, message: said.append(message), ended.set)
    stream.start()
    assert ended.wait(20)
    assert stream.join(20)
    assert [(s.state, s.reason) for s in said] == [("running", None), ("failed", "ValueError: a fault")]
    assert (stream.failed, stream.finished, source.closed) == (True, True, True)
