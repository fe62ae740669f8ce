"""The daemon as a process: from the configuration to the last heartbeat, and every bad input's exit code."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from clips import cut, write_clip
from process import Daemon
from qzd_daemon.client import Client, Detections, Event, Gap, StreamState
from qzd_ext import bundle
from qzd_ext.detector import Detector
from tiny import COLOURS, paint, write_tiny_bundle

StartDaemon = Callable[..., Daemon]

CONFIG = """
[publish]
bind = ["ENDPOINT"]
heartbeat_ms = 100
wait_for_subscribers = 1
[models.tiny]
bundle = "{bundle}"
device = "CPU"
[streams.clip]
source = "{source}"
model = "tiny"
"""
FRAMES = [paint((i % 8, i // 8 % 8, COLOURS[i % 3])) for i in range(100)]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", FRAMES)


def receive_all(client: Client) -> list[Event]:
    """Every event until the stream has ended."""
    events: list[Event] = []
    while not events or not (isinstance(events[-1], StreamState) and events[-1].state == "ended"):
        event = client.receive(20)
        assert event is not None, events[-3:]
        events.append(event)
    return events


def run_clip(
    daemon: StartDaemon, bundle_path: Path, source: Path
) -> tuple[list[Detections], StreamState, Daemon]:
    process = daemon(CONFIG.format(bundle=bundle_path, source=source), "--until-idle")
    with Client(process.endpoint) as client:
        events = receive_all(client)
    assert process.wait() == 0, process.log
    assert not [e for e in events if isinstance(e, Gap)]
    end = events[-1]
    assert isinstance(end, StreamState)
    return [e for e in events if isinstance(e, Detections)], end, process


def test_daemon_when_given_a_clip_publishes_each_frame_once_and_in_order(
    daemon: StartDaemon, tiny_bundle: Path, clip: Path
) -> None:
    messages, end, _ = run_clip(daemon, tiny_bundle, clip)
    assert [(m.frame, m.seq) for m in messages] == [(i, i + 1) for i in range(100)]
    assert {(m.outcome, m.dropped_before, m.width, m.height) for m in messages} == {("ok", 0, 64, 64)}
    assert [m.pts_s for m in messages[:3]] == pytest.approx([0, 0.04, 0.08])
    assert end.reason == "end of file after 100 frames"


def test_daemon_when_given_a_clip_finds_what_the_detector_finds_offline(
    daemon: StartDaemon, tiny_bundle: Path, clip: Path
) -> None:
    messages, _, _ = run_clip(daemon, tiny_bundle, clip)
    video = cv2.VideoCapture(str(clip))
    with Detector(bundle.read(tiny_bundle)) as detector:
        for message in messages:
            found = detector.detect(video.read()[1]).found
            boxes = message.detections or []
            assert [b.class_id for b in boxes] == found.class_ids.tolist()
            assert [b.box for b in boxes] == [pytest.approx(b, abs=5e-4) for b in found.boxes.tolist()]
            assert [b.score for b in boxes] == pytest.approx(found.scores.tolist(), abs=1e-5)
    video.release()


def test_daemon_when_the_video_is_truncated_publishes_what_decodes_and_says_so(
    daemon: StartDaemon, tiny_bundle: Path, clip: Path
) -> None:
    messages, end, _ = run_clip(daemon, tiny_bundle, cut(clip, 0.7))
    decoded = sum(m.outcome == "ok" for m in messages)
    assert 50 < decoded < 100
    assert end.reason is not None
    assert f"after {decoded} frames" in end.reason
    assert "its header promises 100: it is damaged or truncated" in end.reason


def test_daemon_when_a_file_is_no_image_says_so_on_the_wire_and_goes_on(
    daemon: StartDaemon, tiny_bundle: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.png", "c.png"):
        cv2.imwrite(str(images / name), paint((0, 0, "red")))
    (images / "b.png").write_text("this is no image")
    messages, end, _ = run_clip(daemon, tiny_bundle, images)
    assert [(m.file, m.outcome, m.reason) for m in messages] == [
        ("a.png", "ok", None),
        ("b.png", "error", "b.png: not an image"),
        ("c.png", "ok", None),
    ]
    assert not messages[1].detections
    assert end.damaged == 1


def test_daemon_when_told_to_stop_finishes_what_is_under_way(
    daemon: StartDaemon, tiny_bundle: Path, clip: Path
) -> None:
    config = CONFIG.format(bundle=tiny_bundle, source=clip) + 'when_behind = "drop"\n'
    process = daemon(config).ready()
    with Client(process.endpoint) as client:
        while not isinstance(client.receive(20), Detections):
            pass
        assert process.stop() == 0
        rest = []
        while (event := client.receive(0.5)) is not None:
            rest.append(event)
    assert all(isinstance(event, Detections) for event in rest), "a gap was left"
    assert "SIGTERM: stopping" in process.log


def test_daemon_when_interrupted_says_so_by_its_exit_code(
    daemon: StartDaemon, tiny_bundle: Path, clip: Path
) -> None:
    process = daemon(CONFIG.format(bundle=tiny_bundle, source=clip)).ready()
    assert process.stop(signal.SIGINT) == 4


def test_daemon_when_bundle_has_one_byte_changed_names_the_file(
    daemon: StartDaemon, tmp_path: Path, clip: Path
) -> None:
    damaged = write_tiny_bundle(tmp_path / "damaged")
    weights = bytearray((damaged / "model.bin").read_bytes())
    weights[100] ^= 1
    (damaged / "model.bin").write_bytes(weights)
    process = daemon(CONFIG.format(bundle=damaged, source=clip))
    assert process.wait() == 3
    assert "model.bin has sha256" in process.log
    assert "Wanted:" in process.log
    assert "To fix:" in process.log


def test_daemon_when_the_self_test_fails_serves_nothing(
    daemon: StartDaemon, tmp_path: Path, clip: Path
) -> None:
    wrong = write_tiny_bundle(tmp_path / "wrong", golden_label="green")
    process = daemon(CONFIG.format(bundle=wrong, source=clip))
    assert process.wait() == 1
    assert "its self-test on CPU failed" in process.log
    assert "golden frame 0: class 1 with score 1.00" in process.log


def test_daemon_when_the_video_is_not_there_names_it(daemon: StartDaemon, tiny_bundle: Path) -> None:
    process = daemon(CONFIG.format(bundle=tiny_bundle, source="nowhere.mp4"))
    assert process.wait() == 3
    assert "nowhere.mp4: no such file or directory" in process.log
    assert "Traceback" not in process.log


def test_daemon_when_the_port_is_in_use_names_it(daemon: StartDaemon, tiny_bundle: Path, clip: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        endpoint = f"tcp://127.0.0.1:{holder.getsockname()[1]}"
        process = daemon(CONFIG.format(bundle=tiny_bundle, source=clip).replace("ENDPOINT", endpoint))
        assert process.wait() == 3
    assert f"{endpoint}: cannot be bound: it is in use" in process.log


def test_daemon_when_a_key_is_unknown_names_the_nearest(daemon: StartDaemon) -> None:
    process = daemon("[publish]\nbnd = []\n")
    assert process.wait() == 2
    assert "unknown key publish.bnd" in process.log
    assert "did you mean publish.bind?" in process.log


def test_daemon_when_asked_to_check_starts_nothing(
    daemon: StartDaemon, tiny_bundle: Path, clip: Path
) -> None:
    process = daemon(CONFIG.format(bundle=tiny_bundle, source=clip), "--check-config")
    assert process.wait() == 0
    assert "1 models and 1 streams are in order" in process.log
