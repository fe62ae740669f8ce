"""Cameras on the network as they are: lossy, slow to begin, refusing, and turning on the daemon."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from qzd_daemon.config.schema import StreamConfig
from qzd_daemon.sources.frames import SourceFrame, SourceState
from qzd_daemon.sources.ingest import IngestRegistry
from qzd_daemon.sources.open import open_source
from support.http_cameras import HttpCamera, rtsp_refusing
from support.rtsp_camera import RtspCamera
from support.tiny_model import encode, paint
from support.video_damage import moving_squares, write_video
from support.videos import pixels

COUNT = 60
PNG = encode(paint((1, 1, "red")))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for kind in ("h264", "h264 with B-frames", "hevc", "hevc with B-frames"):
        write_video(folder / f"{kind}.ts", kind, moving_squares(COUNT))
    return folder


def config_of(source: str, timeout_s: float = 5.0, **keys: object) -> StreamConfig:
    return StreamConfig(source=source, model="any", timeout_s=timeout_s, **keys)  # type: ignore[arg-type]


def watch(config: StreamConfig, frames: int = 10**6) -> tuple[list[SourceFrame], list[SourceState]]:
    """Collect what comes until there is a number of frames, or the connection ends."""
    source = open_source("any", config, IngestRegistry(10**6))
    found: list[SourceFrame] = []
    states: list[SourceState] = []
    for item in source.frames(threading.Event()):
        if isinstance(item, SourceFrame):
            found.append(item)
        else:
            states.append(item)
        if len(found) == frames or (states and states[-1].state == "reconnecting"):
            return found, states
    return found, states


def reason(config: StreamConfig) -> str:
    _, states = watch(config)
    return states[-1].reason or ""


@pytest.mark.parametrize("kind", ["h264", "h264 with B-frames", "hevc", "hevc with B-frames"])
def test_frames_over_rtsp_with_lost_packets_are_whole_only_if_they_are_right(videos: Path, kind: str) -> None:
    path = videos / f"{kind}.ts"
    with RtspCamera(path, speed=4) as camera:
        clean, states = watch(config_of(camera.url))
    assert [s.state for s in states] == ["connecting", "connected", "running", "reconnecting"]
    assert all(frame.whole for frame in clean)
    assert len(clean) == COUNT
    right = {pixels(frame).tobytes() for frame in clean}
    frames: list[SourceFrame] = []
    lost = 0
    for seed in range(1, 5):
        with RtspCamera(path, loss=0.02, seed=seed, speed=4) as camera:
            frames += watch(config_of(camera.url))[0]
            lost += camera.lost
    assert lost > 0
    assert all(pixels(frame).tobytes() in right for frame in frames if frame.whole)
    assert {frame.whole for frame in frames} == {True, False}


def test_camera_with_a_long_group_of_pictures_gives_its_first_at_once(tmp_path: Path) -> None:
    path = write_video(tmp_path / "long.ts", "h264", moving_squares(50), extra={"g": "1000"})
    with RtspCamera(path) as camera:
        frames, _ = watch(config_of(camera.url), 1)
        waited = time.monotonic() - camera.sent_at[0]
    assert frames[0].whole
    assert len(camera.sent_at) < 40  # pictures that were sent before the first one was there
    assert waited > 0


def test_camera_that_redirects_elsewhere_is_not_followed() -> None:
    with HttpCamera() as other, HttpCamera() as camera:
        other.answers["/secret"] = (200, {}, PNG)
        camera.answers["/"] = (302, {"Location": f"{other.url}/secret"}, b"")
        assert "it redirects to another address" in reason(config_of(f"{camera.url}/"))
        assert other.asked == []


def test_camera_that_answers_with_a_playlist_opens_nothing_else() -> None:
    with HttpCamera() as other, HttpCamera() as camera:
        lines = ("#EXTM3U", "#EXT-X-TARGETDURATION:5", "#EXTINF:5,", f"{other.url}/x.ts", "#EXT-X-ENDLIST")
        playlist = "\n".join(lines).encode()
        camera.answers["/video"] = (200, {"Content-Type": "application/vnd.apple.mpegurl"}, playlist)
        assert reason(config_of(f"{camera.url}/video"))
        assert other.asked == []


def test_playlist_that_the_operator_names_is_played_but_opens_no_file(videos: Path) -> None:
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n"
    with HttpCamera() as camera:
        camera.answers["/0.ts"] = (200, {}, (videos / "h264.ts").read_bytes())
        camera.answers["/a.m3u8"] = (200, {}, f"{head}0.ts\n#EXT-X-ENDLIST\n".encode())
        camera.answers["/b.m3u8"] = (200, {}, f"{head}file://{videos}/h264.ts\n#EXT-X-ENDLIST\n".encode())
        frames, _ = watch(config_of(f"{camera.url}/a.m3u8"), 5)
        assert len(frames) == 5
        frames, _ = watch(config_of(f"{camera.url}/b.m3u8"))
        assert frames == []


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("401 Unauthorized", "it refuses the user or the password (401)"),
        ("404 Not Found", "it has no such stream (404)"),
        ("453 Not Enough Bandwidth", "it serves no further viewer"),
        ("461 Unsupported Transport", 'try rtsp_transport = "udp"'),
    ],
)
def test_camera_that_refuses_is_quoted_in_words(status: str, expected: str) -> None:
    with rtsp_refusing(status) as url:
        assert expected in reason(config_of(url))


def test_camera_whose_host_is_unknown_or_silent_is_told_so() -> None:
    assert "its host name is unknown" in reason(config_of("rtsp://nowhere.invalid/"))
    assert "Connection refused" in reason(config_of("rtsp://127.0.0.1:9/"))


def test_snapshots_come_at_their_interval_with_the_users_password(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("p/a@s:s#%?\n")
    with HttpCamera(user="admin", password="p/a@s:s#%?") as camera:
        camera.answers["/now.png"] = (200, {}, PNG)
        word = str(tmp_path / "word")
        config = config_of(f"{camera.url}/now.png", interval_s=0.05, user="admin", password_file=word)
        frames, states = watch(config, 3)
        assert [s.state for s in states] == ["connecting", "running"]
        for frame in frames:
            np.testing.assert_array_equal(pixels(frame), paint((1, 1, "red")))
        camera.answers["/now.png"] = (200, {}, PNG[:60])
        (broken,), _ = watch(config, 1)
        assert (broken.frame, "is cut off" in (broken.reason or "")) == (None, True)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((302, {"Location": "http://127.0.0.1:9/"}, b""), "it redirects to another address"),
        ((404, {}, b""), "it has no such stream (404)"),
        ((403, {}, b""), "it forbids access (403)"),
    ],
)
def test_snapshots_that_are_refused_say_why(answer: tuple[int, dict[str, str], bytes], expected: str) -> None:
    with HttpCamera() as camera:
        camera.answers["/now.jpg"] = answer
        assert expected in reason(config_of(f"{camera.url}/now.jpg", interval_s=0.05))


@pytest.mark.parametrize("skip", ["nonref", "nonkey"])
def test_frames_when_some_are_skipped_are_fewer_and_whole(videos: Path, skip: str) -> None:
    config = config_of(str(videos / "h264 with B-frames.ts"), skip=skip)
    source = open_source("any", config, IngestRegistry(1))
    frames = [item for item in source.frames(threading.Event()) if isinstance(item, SourceFrame)]
    source.close()
    assert 0 < len(frames) < COUNT
    assert all(frame.whole for frame in frames)
