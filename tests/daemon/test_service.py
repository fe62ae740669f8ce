"""The daemon as a process: from the configuration to the last heartbeat, and every bad input's exit code."""

from __future__ import annotations

import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from qzd_client.subscriber import Client, Detections, Event, Gap, StreamState
from qzd_ext import bundle
from qzd_ext.detections import Detections as Found
from qzd_ext.detector import Detector
from support.configuration import model, publish, stream
from support.processes import Daemon, run_python
from support.tiny_model import COLOURS, POISON, paint, write_tiny_bundle
from support.videos import cut, read_frames, write_clip

StartDaemon = Callable[..., Daemon]

CONFIG = publish(heartbeat_ms=100, wait_for_subscribers=1) + model() + stream("clip", "{source}")
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
    daemon: StartDaemon, bundle_path: Path, source: Path, keys: str = "", *, code: int = 0
) -> tuple[list[Detections], StreamState, Daemon]:
    process = daemon(CONFIG.format(bundle=bundle_path, source=source) + keys, "--until-idle")
    with Client(process.endpoint) as client:
        events = receive_all(client)
    assert process.wait() == code, process.log
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


def test_daemon_when_few_files_may_be_open_takes_as_many_as_are_allowed(
    daemon: StartDaemon, tiny_bundle: Path, clip: Path
) -> None:
    few, most = 200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    before = resource.prlimit(0, resource.RLIMIT_NOFILE, (few, most))
    try:
        process = daemon(CONFIG.format(bundle=tiny_bundle, source=clip)).ready()
    finally:
        resource.prlimit(0, resource.RLIMIT_NOFILE, before)
    assert resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE) == (most, most)
    address, made = process.endpoint.removeprefix("ipc://"), []
    for _ in range(2 * few):
        made.append(socket.socket(socket.AF_UNIX))
        made[-1].connect(address)
    for connection in made:
        connection.close()
    assert process.stop() == 0, process.log


def test_daemon_when_connections_may_use_up_the_open_files_says_so(
    daemon: StartDaemon, tiny_bundle: Path, clip: Path
) -> None:
    config = CONFIG.format(bundle=tiny_bundle, source=clip)
    process = daemon(config.replace("[publish]", f"[publish]\nmax_connections = {2**31 - 1}")).ready()
    assert f"instead of {2**31 - 1}: only" in process.log
    assert process.stop() == 0
    process = daemon(config.replace("[publish]", "[publish]\nmax_connections = 1")).ready()
    assert "files may be open" not in process.log
    assert process.stop() == 0


def test_daemon_when_a_clip_is_played_stamps_each_frame_when_it_is_shown(
    daemon: StartDaemon, tiny_bundle: Path, clip: Path
) -> None:
    messages, _, _ = run_clip(daemon, tiny_bundle, clip, 'when_behind = "drop"')
    shown = [(m.captured_ns / 1e9, m.pts_s) for m in messages if m.pts_s is not None]
    begin = shown[0][0] - shown[0][1]
    assert len(shown) == len(messages)
    assert all(captured >= begin + pts - 0.005 for captured, pts in shown)


def test_daemon_when_given_a_clip_finds_what_the_detector_finds_offline(
    daemon: StartDaemon, tiny_bundle: Path, clip: Path
) -> None:
    messages, _, _ = run_clip(daemon, tiny_bundle, clip)
    with Detector(bundle.read(tiny_bundle)) as detector:
        for message, frame in zip(messages, read_frames(clip), strict=True):
            found = detector.detect(frame).found
            assert isinstance(found, Found)
            boxes = message.detections or []
            assert [b.class_id for b in boxes] == found.class_ids.tolist()
            assert [b.box for b in boxes] == [pytest.approx(b, abs=5e-4) for b in found.boxes.tolist()]
            assert [b.score for b in boxes] == pytest.approx(found.scores.tolist(), abs=1e-5)


def test_daemon_when_the_video_is_truncated_publishes_what_decodes_and_says_so(
    daemon: StartDaemon, tiny_bundle: Path, clip: Path
) -> None:
    messages, end, _ = run_clip(daemon, tiny_bundle, cut(clip, 0.7), code=3)
    decoded = sum(m.outcome == "ok" for m in messages)
    assert 50 < decoded < 100
    assert end.reason is not None
    assert f"after {decoded + end.damaged} frames" in end.reason
    assert "its header promises 100: it is damaged or truncated" in end.reason


def test_daemon_when_a_file_is_no_image_says_so_on_the_wire_and_goes_on(
    daemon: StartDaemon, tiny_bundle: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.png", "c.png"):
        cv2.imwrite(str(images / name), paint((0, 0, "red")))
    (images / "b.png").write_text("this is no image")
    messages, end, process = run_clip(daemon, tiny_bundle, images, code=3)
    assert "not everything could be decoded whole: clip" in process.log
    assert [(m.file, m.outcome, m.reason) for m in messages] == [
        ("a.png", "ok", None),
        ("b.png", "error", "b.png: not an image"),
        ("c.png", "ok", None),
    ]
    assert not messages[1].detections
    assert (end.damaged, end.undecodable) == (0, 1)


def test_daemon_when_told_to_stop_finishes_what_is_under_way(
    daemon: StartDaemon, tiny_bundle: Path, clip: Path
) -> None:
    config = CONFIG.format(bundle=tiny_bundle, source=clip) + 'when_behind = "drop"\n'
    process = daemon(config).ready()
    with Client(process.endpoint) as client:
        wait_until_running(client)
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


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 4), ("SIGTERM", 0), ("SIGHUP", 5)])
def test_daemon_when_a_signal_comes_before_it_serves_is_not_at_the_mercy_of_what_it_imports(
    tmp_path: Path, number: str, code: int
) -> None:
    (tmp_path / "qzd.toml").write_text('[models.tiny]\nbundle = "tiny"')
    done = run_python(
        "import os, signal, sys\nfrom qzd_daemon import cli\n"
        f"def swallow(*_):\n    try:\n        os.kill(os.getpid(), signal.{number})\n"
        "    finally:\n        os._exit(5)\n"
        f"cli._serve = swallow\nsys.argv = ['qzd', '--config', '{tmp_path}/qzd.toml']\ncli.main()\n"
    )
    assert (done.returncode, done.stderr) == (code, "")


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
    process = daemon(CONFIG.format(bundle=tiny_bundle, source="nowhere.mp4"), "--check-config")
    assert process.wait() == 3
    assert "nowhere.mp4: no such file or directory" in process.log
    assert "Traceback" not in process.log


def test_daemon_when_one_video_is_not_there_serves_the_other_and_tries_again(
    daemon: StartDaemon, tiny_bundle: Path, clip: Path, tmp_path: Path
) -> None:
    late = tmp_path / "late.mp4"
    config = CONFIG.format(bundle=tiny_bundle, source=clip)
    process = daemon(f'{config}\n[streams.late]\nsource = "{late}"\nmodel = "tiny"\n')
    with Client(process.endpoint) as client:
        events: list[Event] = receive_all(client)
        late.write_bytes(clip.read_bytes())
        while not (isinstance(events[-1], Detections) and events[-1].stream == "late"):
            event = client.receive(20)
            assert event is not None, process.log
            events.append(event)
    states = [(e.stream, e.state) for e in events if isinstance(e, StreamState)]
    assert ("late", "failed") in states
    assert ("late", "running") in states
    assert sum(isinstance(e, Detections) and e.stream == "clip" for e in events) == len(FRAMES)
    assert process.stop() == 0, process.log


def test_daemon_until_idle_when_a_video_is_not_there_fails(daemon: StartDaemon, tiny_bundle: Path) -> None:
    process = daemon(
        CONFIG.format(bundle=tiny_bundle, source="nowhere.mp4").replace("wait_for_subscribers = 1", ""),
        "--until-idle",
    )
    assert process.wait() == 3
    assert "nowhere.mp4: no such file or directory" in process.log


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
    assert "1 model and 1 stream: in order" in process.log


def test_daemon_when_its_configuration_changes_applies_it_at_sighup(
    daemon: StartDaemon, tiny_bundle: Path, clip: Path
) -> None:
    config = CONFIG.format(bundle=tiny_bundle, source=clip).replace("wait_for_subscribers = 1", "")
    process = daemon(config + "max_fps = 20\n").ready()
    with Client(process.endpoint) as client:
        process.configure(f'{config}max_fps = 20\n[streams.more]\nsource = "{clip}"\nmodel = "tiny"\n')
        process.process.send_signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in process.notice("RELOADING=1")
        process.notice("EXTEND_TIMEOUT_USEC=15000000")  # a model may take minutes to compile
        assert "STATUS=2 streams through 1 models" in process.notice("READY=1")
        ended = [e for e in receive_all(client) if isinstance(e, StreamState) and e.state == "ended"]
    assert ended[0].stream == "more"
    assert process.stop() == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("max_fsp = 3", "did you mean streams.clip.max_fps?"),
        ('[streams.x]\nsource = "nowhere"\nmodel = "tiny"', "nowhere: no such file"),
        ("[service]\nstop_timeout_s = -1", "service.stop_timeout_s"),
        ("max_fps = " + "[" * 3000, "not TOML"),
    ],
)
def test_daemon_when_the_new_configuration_is_wrong_keeps_the_old(
    daemon: StartDaemon, tiny_bundle: Path, clip: Path, line: str, expected: str
) -> None:
    config = CONFIG.format(bundle=tiny_bundle, source=clip)
    process = daemon(config).ready()
    assert "STATUS=1 streams through 1 models" in process.reload(config + line)
    assert "the old configuration is kept" in process.log
    assert expected in process.log
    with Client(process.endpoint) as client:
        assert isinstance(receive_all(client)[-1], StreamState)
    assert process.stop() == 0


def test_daemon_when_reloaded_before_its_subscribers_are_there_waits_for_them_still(
    daemon: StartDaemon, tiny_bundle: Path, clip: Path
) -> None:
    config = CONFIG.format(bundle=tiny_bundle, source=clip)
    process = daemon(config, "--until-idle").ready()
    process.reload(config + "max_fps = 200")
    assert "reloaded: " in process.log
    with Client(process.endpoint) as client:
        messages = [event for event in receive_all(client) if isinstance(event, Detections)]
    assert [m.frame for m in messages] == list(range(100))
    assert process.wait() == 0


def test_daemon_when_reloaded_until_idle_plays_the_new_source_to_its_end(
    daemon: StartDaemon, tiny_bundle: Path, clip: Path
) -> None:
    config = CONFIG.format(bundle=tiny_bundle, source=clip)
    process = daemon(config + "max_fps = 5", "--until-idle").ready()
    with Client(process.endpoint) as client:
        wait_until_running(client)
        process.reload(config + "max_fps = 400")
        ended = receive_all(client)[-1]
    assert isinstance(ended, StreamState)
    assert ended.frames == 100
    assert process.wait() == 0


def test_daemon_when_the_publish_table_changes_asks_for_a_restart(
    daemon: StartDaemon, tiny_bundle: Path, clip: Path
) -> None:
    config = CONFIG.format(bundle=tiny_bundle, source=clip)
    process = daemon(config).ready()
    process.reload(config.replace("heartbeat_ms = 100", "heartbeat_ms = 200"))
    assert "[publish] has changed, which a reload cannot do" in process.log


@pytest.fixture
def stuck(tmp_path: Path) -> str:
    """Return a configuration whose every frame keeps the device busy for twenty seconds."""
    images = tmp_path / "images"
    images.mkdir()
    for index in range(3):
        cv2.imwrite(str(images / f"{index}.png"), paint(POISON))
    bundle_path = write_tiny_bundle(tmp_path / "stuck", fault="stuck")
    config = CONFIG.format(bundle=bundle_path, source=images)
    return config.replace('device = "CPU"', 'device = "CPU"\nrequests = 1')


def wait_until_running(client: Client) -> None:
    event = client.receive(20)
    while not (isinstance(event, StreamState) and event.state == "running"):
        assert event is not None
        event = client.receive(20)
    time.sleep(0.3)  # and its first frame is on the device


def test_daemon_when_told_to_stop_twice_stops_at_once(daemon: StartDaemon, stuck: str) -> None:
    process = daemon(stuck).ready()
    with Client(process.endpoint) as client:
        wait_until_running(client)
        process.process.send_signal(signal.SIGTERM)
        process.notice("STOPPING=1")
        process.process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 4
    assert "the stop is forced" in process.log


def test_daemon_when_told_to_stop_while_it_starts_ends_at_once(daemon: StartDaemon, stuck: str) -> None:
    table = stuck[stuck.index("[models") : stuck.index("[streams")]
    process = daemon(stuck + "".join(table.replace("tiny", f"m{i}") for i in range(200)))
    process.notice("STATUS=compiling and testing the models")
    process.process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0
    assert "stopping before anything is served" in process.log


def test_daemon_when_the_device_hangs_stops_in_time_and_answers_for_its_frames(
    daemon: StartDaemon, stuck: str
) -> None:
    process = daemon(stuck + "[service]\nstop_timeout_s = 0.1\n").ready()
    with Client(process.endpoint) as client:
        wait_until_running(client)
        assert process.stop() == 3
        process.notice("EXTEND_TIMEOUT_USEC=15000000")
        rest = []
        while (event := client.receive(0.5)) is not None:
            rest.append(event)
    assert [e.outcome for e in rest if isinstance(e, Detections)] == ["error", "skipped", "skipped"]
    assert "frames were still in progress" in process.log


def test_daemon_when_the_device_hangs_leaves_the_watchdog_unfed(daemon: StartDaemon, stuck: str) -> None:
    process = daemon(stuck + "[service]\ninference_timeout_s = 0.1\n", WATCHDOG_USEC="1000000")
    process.notice("WATCHDOG=1")  # nothing hangs as long as nothing runs
    with Client(process.endpoint) as client:
        event = client.receive(20)
        while not isinstance(event, Detections):
            assert event is not None
            event = client.receive(20)
        time.sleep(0.6)
        process.forget_notices()
        with pytest.raises(AssertionError, match="no WATCHDOG=1"):
            process.notice("WATCHDOG=1", timeout=1.5)


def test_daemon_when_it_has_no_stream_is_idle_at_once(daemon: StartDaemon, tiny_bundle: Path) -> None:
    config = CONFIG.format(bundle=tiny_bundle, source="none").partition("[streams")[0]
    process = daemon(config.replace("wait_for_subscribers = 1", ""), "--until-idle")
    assert process.wait() == 0


def test_daemon_when_many_ask_for_a_reload_at_once_serves_on(
    daemon: StartDaemon, tiny_bundle: Path, clip: Path
) -> None:
    process = daemon(CONFIG.format(bundle=tiny_bundle, source=clip)).ready()
    for _ in range(400):
        process.process.send_signal(signal.SIGHUP)
    process.forget_notices()
    process.notice("READY=1")
    threads = Path(f"/proc/{process.process.pid}/task")
    assert len(list(threads.iterdir())) < 100
    assert process.stop() == 0


def test_daemon_with_too_few_files_says_so_and_ends(tmp_path: Path, tiny_bundle: Path, clip: Path) -> None:
    (tmp_path / "qzd.toml").write_text(
        CONFIG.format(bundle=tiny_bundle, source=clip).replace("ENDPOINT", f"ipc://{tmp_path}/detections")
    )
    words = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); import sys; \
sys.argv = ['qzd', '--config', {str(tmp_path / 'qzd.toml')!r}]; from qzd_daemon.cli import main; main()"
    done = run_python(words)
    assert done.returncode == 3
    assert "only 64 files may be open" in done.stderr
    assert "Traceback" not in done.stderr
