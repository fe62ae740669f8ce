"""The thread of a stream, and what becomes of it when its source fails in a way that nobody foresaw."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from qzd_client import messages
from qzd_daemon.config.schema import StreamConfig
from qzd_daemon.engine.stream import Stream
from qzd_daemon.sources.frames import SourceState


class Faulty:
    """A source with a fault of its own."""

    live, end, closed = True, "", False

    def frames(self, _: threading.Event) -> Iterator[SourceState]:
        yield SourceState("running")
        raise ValueError("a fault")

    def close(self) -> None:
        self.closed = True


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
