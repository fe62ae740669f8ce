"""Recordings: what a plain publisher sends is what is read back."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from qzd_client import Recorder, StreamState, messages, read_recording
from qzd_client.errors import DataError
from support.peers import PlainPublisher

TOPIC = messages.stream_topic("gate")


def state(seq: int) -> StreamState:
    return StreamState(stream="gate", state="running", epoch="a", seq=seq)


def test_read_recording_returns_what_was_recorded(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    with (
        PlainPublisher(f"ipc://{tmp_path}/detections") as publisher,
        path.open("wb") as file,
        Recorder(publisher.endpoint, None, file) as recorder,
    ):
        publisher.wait_for([messages.PREFIX])
        for seq in (1, 2, 4):
            publisher.send(TOPIC, state(seq))
            assert recorder.record(20) == TOPIC
        assert recorder.record(0.01) is None
    lines = list(read_recording(path))
    assert [message for _, message in lines] == [state(1), state(2), state(4)]
    assert [line.topic for line, _ in lines] == [TOPIC] * 3
    assert [line.received_ns for line, _ in lines] == sorted(line.received_ns for line, _ in lines)


def test_record_when_a_message_has_other_frames_raises(tmp_path: Path) -> None:
    with (
        PlainPublisher(f"ipc://{tmp_path}/detections") as publisher,
        (tmp_path / "recording").open("wb") as file,
        Recorder(publisher.endpoint, None, file) as recorder,
    ):
        publisher.wait_for([messages.PREFIX])
        publisher.send_frames([TOPIC.encode()])
        with pytest.raises(msgspec.DecodeError, match="1 frames"):
            recorder.record(20)


@pytest.mark.parametrize("line", [b"", b"{", b"{}", b'{"received_ns":1,"topic":"t","message":{}}', b"\xff"])
def test_read_recording_when_a_line_is_not_a_message_names_it(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "recording"
    path.write_bytes(line + b"\n")
    with pytest.raises(DataError, match="line 1"):
        list(read_recording(path))


def test_read_recording_when_the_file_does_not_exist_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        list(read_recording(tmp_path / "nowhere"))
