"""Every picture that is called whole is the one that the undamaged video has at its time."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from qzd_daemon.sources.decode import decode_frames
from qzd_daemon.sources.frames import SourceFrame
from qzd_daemon.sources.hardware import decoder
from support.video_damage import CODECS, alter, lose_ts_packets, moving_squares, write_video
from support.videos import pixels

COUNT = 60
FRAMES = moving_squares(COUNT)
PREDICTED = [kind for kind in CODECS if kind != "mjpeg"]
NUMBERED = [kind for kind in CODECS if kind.startswith(("h264", "hevc"))]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


def clip(videos: Path, kind: str, suffix: str = "mkv") -> Path:
    path = videos / f"{kind}.{suffix}"
    return path if path.exists() else write_video(path, kind, FRAMES)


def read(path: Path) -> list[SourceFrame]:
    with av.open(str(path)) as container:
        return list(decode_frames(container, decoder(container, path.name, hardware=False)))


def number(frame: SourceFrame) -> int:
    assert frame.pts_s is not None
    return round(frame.pts_s * 25)


def wrong(frames: list[SourceFrame], clean: list[SourceFrame]) -> list[int]:
    """Numbers of the pictures that are called whole, and are not those of the undamaged video."""
    expected = {number(f): pixels(f) for f in clean}
    assert len(expected) == COUNT
    return [number(f) for f in frames if f.whole and not np.array_equal(pixels(f), expected[number(f)])]


def told(frames: list[SourceFrame]) -> int:
    """How many pictures the frames account for."""
    return len(frames) + sum(f.absent for f in frames)


@pytest.mark.parametrize("suffix", ["mkv", "ts", "mp4"])
@pytest.mark.parametrize("kind", CODECS)
def test_frames_of_a_clean_video_are_whole(videos: Path, kind: str, suffix: str) -> None:
    if (kind, suffix) == ("mjpeg", "ts"):
        pytest.skip("MPEG-TS does not carry MJPEG")
    frames = read(clip(videos, kind, suffix))
    assert [(f.whole, f.absent) for f in frames] == [(True, 0)] * COUNT


@pytest.mark.parametrize("kind", CODECS)
def test_frames_when_packets_are_cut_short_are_whole_only_if_they_are_right(
    videos: Path, tmp_path: Path, kind: str
) -> None:
    cut = lambda n, content: content[: len(content) // 3] if n % 17 == 9 else content  # noqa: E731
    frames = read(alter(clip(videos, kind), tmp_path / "cut.mkv", cut))
    assert wrong(frames, read(clip(videos, kind))) == []
    assert any(f.whole for f in frames[20:])
    assert not all(f.whole for f in frames)
    assert told(frames) == COUNT


@pytest.mark.parametrize("kind", NUMBERED)
def test_frames_when_packets_are_missing_are_whole_only_if_they_are_right(
    videos: Path, tmp_path: Path, kind: str
) -> None:
    frames = read(alter(clip(videos, kind), tmp_path / "lost.mkv", lambda n, c: None if n in (8, 33) else c))
    assert wrong(frames, read(clip(videos, kind))) == []
    assert sum(f.whole for f in frames) > COUNT / 3
    assert told(frames) == COUNT


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("kind", PREDICTED)
def test_frames_when_packets_of_a_transport_stream_are_lost_are_whole_only_if_they_are_right(
    videos: Path, tmp_path: Path, kind: str, seed: int
) -> None:
    source = clip(videos, kind, "ts")
    frames = read(lose_ts_packets(source, tmp_path / "lost.ts", 0.02, seed))
    assert wrong(frames, read(source)) == []
    assert not all(f.whole for f in frames)


def test_frames_after_a_lost_packet_are_whole_from_the_next_key_frame_on(
    videos: Path, tmp_path: Path
) -> None:
    lost = alter(clip(videos, "h264"), tmp_path / "lost.mkv", lambda n, c: None if n == 20 else c)
    frames = {number(f): f for f in read(lost)}
    assert [n for n, f in frames.items() if not f.whole] == [21, 22, 23]
    assert frames[21].reason == "damaged video data: 1 pictures are absent"
    assert frames[21].absent == 1
    assert 20 not in frames


def test_frames_of_mjpeg_after_a_damaged_one_are_whole(videos: Path, tmp_path: Path) -> None:
    cut = lambda n, content: content[:-200] if n == 20 else content  # noqa: E731
    frames = read(alter(clip(videos, "mjpeg"), tmp_path / "cut.mkv", cut))
    assert [number(f) for f in frames if not f.whole] == [20]


def test_frames_after_a_lost_packet_are_whole_once_a_gradual_refresh_is_complete(
    videos: Path, tmp_path: Path
) -> None:
    refreshed = {"x264-params": "intra-refresh=1:keyint=12"}
    clean = write_video(tmp_path / "clean.mkv", "h264", FRAMES, extra=refreshed)
    frames = read(alter(clean, tmp_path / "lost.mkv", lambda n, c: None if n == 20 else c))
    assert wrong(frames, read(clean)) == []
    damaged = [number(f) for f in frames if not f.whole]
    assert damaged == list(range(21, damaged[-1] + 1))
    assert 24 < damaged[-1] < 48


def test_frames_of_a_video_without_further_key_frames_stay_damaged(videos: Path, tmp_path: Path) -> None:
    clean = write_video(tmp_path / "clean.mkv", "h264", FRAMES, extra={"g": "1000"})
    frames = read(alter(clean, tmp_path / "lost.mkv", lambda n, c: None if n == 20 else c))
    assert [f.whole for f in frames] == [True] * 20 + [False] * 39


def test_frames_when_nothing_can_be_decoded_are_told_one_by_one(videos: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).bytes(400)
    broken = alter(clip(videos, "mjpeg"), tmp_path / "noise.mkv", lambda n, c: noise if n > 50 else c)
    frames = read(broken)
    assert [number(f) for f in frames if f.frame is None] == list(range(51, COUNT))
    assert all((f.reason or "").startswith("damaged video data: ") for f in frames[51:])
