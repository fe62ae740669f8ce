"""Frame numbers of real H.264 as x264 writes it, with pictures left out."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qzd_daemon.sources.h264 import FrameNumbers, Reading
from support.video_damage import moving_squares, write_video

FRAMES = moving_squares(40, side=64)
Packets = tuple[bytes | None, list[bytes]]


def encode(path: Path, options: dict[str, str]) -> Packets:
    write_video(path, "h264", FRAMES, extra=options)
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        packets = [bytes(packet) for packet in container.demux(video) if packet.size]
        return video.codec_context.extradata, packets


def readings(packets: Packets, left_out: tuple[int, ...] = ()) -> dict[int, Reading | None]:
    numbers = FrameNumbers(packets[0])
    return {n: numbers.read(content) for n, content in enumerate(packets[1]) if n not in left_out}


def absent(found: dict[int, Reading | None]) -> dict[int, int]:
    return {n: reading.absent for n, reading in found.items() if reading and reading.absent}


OPTIONS = {
    "plain": {},
    "B-frames": {"bf": "3", "x264-params": "b-pyramid=normal"},
    "open groups": {"bf": "3", "x264-params": "open-gop=1"},
    "slices": {"x264-params": "slices=4"},
    "baseline": {"profile": "baseline"},
    "4:4:4": {"profile": "high444"},
    "scaling lists": {"x264-params": "cqm=jvt"},
    "interlaced": {"x264-params": "interlaced=1"},
    "gradual refresh": {"x264-params": "intra-refresh=1:keyint=12"},
}


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
@pytest.mark.parametrize("kind", OPTIONS)
def test_read_when_nothing_is_absent_finds_no_gap(tmp_path: Path, kind: str, suffix: str) -> None:
    found = readings(encode(tmp_path / f"clip.{suffix}", OPTIONS[kind]))
    assert all(reading is not None for reading in found.values())
    assert absent(found) == {}


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
@pytest.mark.parametrize("left_out", [(5,), (5, 6, 7), (3, 20)])
def test_read_when_pictures_are_left_out_finds_each_gap(
    tmp_path: Path, suffix: str, left_out: tuple[int, ...]
) -> None:
    found = readings(encode(tmp_path / f"clip.{suffix}", {}), left_out)
    assert sum(absent(found).values()) == len(left_out)
    assert set(absent(found)) == {n + 1 for n in left_out if n + 1 not in left_out}


def test_read_when_the_end_of_a_group_is_left_out_finds_no_gap_at_the_key_frame(tmp_path: Path) -> None:
    found = readings(encode(tmp_path / "clip.mkv", {}), (11,))
    assert absent(found) == {}


def test_read_of_a_gradual_refresh_finds_its_end_unless_it_was_damaged(tmp_path: Path) -> None:
    packets = encode(tmp_path / "clip.mkv", OPTIONS["gradual refresh"])
    whole = [n for n, reading in readings(packets).items() if reading and reading.recovered]
    broken = [n for n, reading in readings(packets, (whole[1] - 1,)).items() if reading and reading.recovered]
    assert len(whole) > 2
    assert broken == [whole[0], *whole[2:]]


@given(st.binary(max_size=400), st.binary(max_size=100))
def test_read_of_any_bytes_ends(content: bytes, extradata: bytes) -> None:
    for start in (b"", b"\x00\x00\x01\x67", b"\x00\x00\x01\x06"):
        FrameNumbers(None).read(start + content)
    FrameNumbers(b"\x00\x00\x01\x67" + extradata).read(content)
