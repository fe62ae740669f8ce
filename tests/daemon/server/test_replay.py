"""A replay publishes what was recorded, as a daemon that runs now would."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
import zmq
from click.testing import CliRunner

from qzd_client import messages
from qzd_client.recording import Line, Recorder, read_recording
from qzd_client.subscriber import Client, Event, Gap, Restarted, StreamState
from qzd_daemon.config.schema import PublishConfig
from qzd_daemon.ctl.main import cli
from qzd_daemon.server.publisher import Publisher
from qzd_daemon.server.replay import Player
from qzd_daemon.transport.listener import Listener
from qzd_ext.errors import DataError, EndpointError

TOPIC = messages.stream_topic("gate")
COMMAND = (sys.executable, "-c", "from qzd_daemon.ctl.main import main; main()")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Messages 4 to 13 of a publisher, without 8 and 9, and its heartbeats."""
    listener = Listener()
    config = PublishConfig(bind=(f"ipc://{tmp_path}/live",), heartbeat_ms=20, linger_ms=200)
    publisher = Publisher(config, listener)
    listener.start()
    publisher.start()
    path = tmp_path / "whole"
    with path.open("wb") as file, Recorder(publisher.endpoints[0], None, file) as recorder:
        while recorder.record(5) != messages.HEARTBEAT:
            pass
        for number in range(13):
            publisher.publish(TOPIC, StreamState(stream="gate", state="running", frames=number))
        publisher.close()
        while recorder.record(0.5):
            pass
    listener.close()
    kept = [line for line, m in read_recording(path) if line.topic == messages.HEARTBEAT or m.seq in KEPT]
    (tmp_path / "recording").write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in kept))
    return tmp_path / "recording"


KEPT = {4, 5, 6, 7, 10, 11, 12, 13}


@pytest.fixture
def player(tmp_path: Path) -> Iterator[Player]:
    player = Player((f"ipc://{tmp_path}/replay",))
    yield player
    player.close()


def write(path: Path, *published: messages.Message, pause_ns: int = 1) -> None:
    """Write a recording of these messages."""
    lines = []
    for number, message in enumerate(published):
        topic = messages.HEARTBEAT if isinstance(message, messages.Heartbeat) else TOPIC
        lines.append(Line(number * pause_ns, topic, msgspec.Raw(messages.encode(message))))
    path.write_bytes(b"\n".join(map(msgspec.json.encode, lines)))


def receive(client: Client, count: int) -> list[Event]:
    events = [client.receive(10) for _ in range(count)]
    return [event for event in events if event is not None]


def numbers(events: list[Event]) -> list[tuple[int, int]]:
    return [(event.seq, event.frames) for event in events if isinstance(event, StreamState)]


def test_play_when_it_was_recorded_from_the_midst_counts_from_one_and_keeps_what_was_lost(
    recording: Path, player: Player
) -> None:
    with Client(player.endpoints[0]) as client:
        player.wait()
        assert player.play(recording, None) == len(KEPT)
        events = receive(client, 9)
    assert [event for event in events if isinstance(event, Gap)] == [Gap(TOPIC, 5, 6)]
    assert numbers(events) == [(1, 3), (2, 4), (3, 5), (4, 6), (7, 9), (8, 10), (9, 11), (10, 12)]


def test_play_when_again_is_another_epoch(recording: Path, player: Player) -> None:
    with Client(player.endpoints[0]) as client:
        player.wait()
        player.play(recording, None)
        receive(client, 9)
        player.play(recording, None)
        first = client.receive(10)
    assert isinstance(first, Restarted)


def test_play_when_paced_waits_as_long_as_it_took(tmp_path: Path, player: Player) -> None:
    beat = msgspec.Raw(messages.encode(messages.Heartbeat(state="serving", interval_ms=1, topics={})))
    lines = [{"received_ns": at * 10**9, "topic": messages.HEARTBEAT, "message": beat} for at in (5, 6, 9)]
    (tmp_path / "paced").write_bytes(b"\n".join(msgspec.json.encode(line) for line in lines))
    slept: list[float] = []
    player.play(tmp_path / "paced", 2.0, slept.append)
    assert slept[-2:] == pytest.approx([0.5, 2.0], abs=0.3)


def test_play_hands_on_fields_and_kinds_that_only_newer_versions_know(tmp_path: Path, player: Player) -> None:
    topics = [TOPIC, f"{messages.PREFIX}news/"]
    state = msgspec.to_builtins(StreamState(epoch="e", stream="gate", state="running", seq=7))
    state["mood"] = msgspec.Raw(b"1e999")
    published = [state, {"schema": "qzd.news/3", "epoch": "e", "seq": 4, "what": ["new"]}]
    lines = [{"received_ns": 1, "topic": t, "message": m} for t, m in zip(topics, published, strict=True)]
    (tmp_path / "newer").write_bytes(b"\n".join(msgspec.json.encode(line) for line in lines))
    copy = tmp_path / "copy"
    with copy.open("wb") as file, Recorder(player.endpoints[0], None, file) as recorder:
        player.wait()
        assert player.play(tmp_path / "newer", None) == 2
        while recorder.record(10) != messages.HEARTBEAT:
            pass
    first, second, _ = (
        msgspec.json.decode(bytes(line.message).replace(b"1e999", b'"too large"'))
        for line, _ in read_recording(copy)
    )
    assert (first["mood"], first["seq"]) == ("too large", 1)
    assert (second["schema"], second["what"], second["seq"]) == ("qzd.news/3", ["new"], 1)
    assert first["epoch"] == second["epoch"] != "e"


def test_play_when_the_daemon_started_again_does_so_too(tmp_path: Path, player: Player) -> None:
    def state(epoch: str, seq: int) -> messages.Message:
        return StreamState(epoch=epoch, seq=seq, stream="gate", state="running")

    def beat(epoch: str, state: messages.BeatState, last: int) -> messages.Message:
        return messages.Heartbeat(epoch=epoch, state=state, interval_ms=1, topics={TOPIC: last})

    before = [*(state("a", seq) for seq in (100, 101, 102)), beat("a", "stopping", 103)]
    published = [*before, state("b", 1), state("b", 2), beat("b", "serving", 2)]
    path, copy = tmp_path / "two", tmp_path / "copy"
    write(path, *published)
    with copy.open("wb") as file, Recorder(player.endpoints[0], None, file) as recorder:
        player.wait()
        assert player.play(path, None) == 5
        while recorder.record(0.5):
            pass
    played = [message for _, message in read_recording(copy)]
    told = [(m.state, m.topics) if isinstance(m, messages.Heartbeat) else m.seq for m in played]
    end = [("serving", {TOPIC: 2}), ("stopping", {TOPIC: 2})]
    assert told == [1, 2, 3, ("stopping", {TOPIC: 4}), 1, 2, *end]
    epochs = [message.epoch for message in played]
    assert epochs == [epochs[0]] * 4 + [epochs[4]] * 4
    assert len({*epochs, "a", "b"}) == 4


def test_play_when_nothing_came_for_years_does_not_wait_that_long(tmp_path: Path, player: Player) -> None:
    beat = messages.Heartbeat(epoch="e", state="serving", interval_ms=1, topics={})
    write(tmp_path / "years", beat, beat, pause_ns=2**62)
    slept: list[float] = []
    player.play(tmp_path / "years", 0.001, slept.append)
    assert slept == [86400.0]


BAD_LINES = [
    "",
    "{}",
    '{"received_ns":1,"topic":"t","message":{"schema":"x"}}',
    '{"received_ns":1e30,"topic":"t","message":{"schema":"x","epoch":"e","seq":1}}',
    '{"received_ns":1,"topic":"t","message":' + "[" * 3000,
    "\xff",
]


@pytest.mark.parametrize("line", BAD_LINES)
def test_read_recording_when_a_line_is_no_message_names_it(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad"
    path.write_text(line + "\n", encoding="latin-1")
    with pytest.raises(DataError, match="bad, line 1"):
        list(read_recording(path))


def qzdctl(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def test_replay_and_tail_as_commands_hand_it_on(recording: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [*COMMAND, "replay", str(recording), "--bind", f"ipc://{tmp_path}/r", "--fast", "--wait"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as replay:
        copied = qzdctl("--endpoint", f"ipc://{tmp_path}/r", "record", tmp_path / "copy", "--seconds", "2")
        _, said = replay.communicate(timeout=30)
    assert (copied.returncode, replay.returncode) == (0, 0)
    assert "8 messages sent" in said
    states = [m for line, m in read_recording(tmp_path / "copy") if isinstance(m, StreamState)]
    assert [m.frames for m in states] == [n - 1 for n in sorted(KEPT)]


def test_tail_when_the_terminal_lacks_a_letter_shows_its_number(tmp_path: Path, player: Player) -> None:
    write(tmp_path / "recording", StreamState(epoch="e", seq=1, stream="\u9580", state="running"))
    paths = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONIOENCODING": "latin-1"}
    command = [*COMMAND, "--endpoint", player.endpoints[0], "tail"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as tail:
        player.wait()
        player.play(tmp_path / "recording", None)
        assert tail.stdout is not None
        assert tail.stdout.readline() == b"-- stream \\u9580 running\n"
        tail.terminate()


def test_record_when_the_file_is_there_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("precious")
    done = qzdctl("--endpoint", f"ipc://{tmp_path}/nobody", "record", tmp_path / "there")
    assert done.returncode == 2
    assert "the file exists already" in done.stderr
    assert (tmp_path / "there").read_text() == "precious"


def test_record_when_it_cannot_begin_leaves_no_file_in_the_way_of_the_next(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["--endpoint", "nonsense", "record", str(tmp_path / "new")])
    assert isinstance(done.exception, EndpointError)
    assert not (tmp_path / "new").exists()


def test_record_when_the_disk_is_full_says_so_and_counts_nothing(tmp_path: Path, player: Player) -> None:
    state = StreamState(epoch="e", seq=1, stream="gate", state="running", reason="x" * 1000)
    write(tmp_path / "recording", *[state] * 20)
    command = ["--endpoint", player.endpoints[0], "record", str(tmp_path / "copy"), "--count", "20"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with ThreadPoolExecutor() as pool:
            done = pool.submit(CliRunner().invoke, cli, command)
            player.wait()
            player.play(tmp_path / "recording", None)
            result = done.result(20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert isinstance(result.exception, DataError)
    assert "cannot be written: File too large" in str(result.exception)
    assert "messages in" not in result.output


def test_record_when_a_message_is_of_other_frames_says_so(tmp_path: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.XPUB) as other, (tmp_path / "copy").open("wb") as file:
        other.linger = 0
        other.bind(f"ipc://{tmp_path}/other")
        with Recorder(f"ipc://{tmp_path}/other", None, file) as recorder:
            other.recv()
            other.send_multipart([TOPIC.encode(), b"{}", b"more"])
            with pytest.raises(msgspec.DecodeError, match="3 frames"):
                recorder.record(20)


def test_replay_when_there_is_no_such_file_says_so_and_waits_for_nobody(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["replay", str(tmp_path / "none"), "--wait"])
    assert (done.exit_code, "does not exist" in done.output) == (2, True)


def test_play_when_there_is_no_message_says_so(tmp_path: Path, player: Player) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match="there is no message in it"):
        player.play(tmp_path / "empty", None)
