"""Files and directories, whole, damaged and absent."""

from __future__ import annotations

import itertools
import os
import struct
import tempfile
import threading
import wave
from pathlib import Path

import cv2
import numpy as np
import pytest

from qzd_daemon.config.schema import StreamConfig
from qzd_daemon.sources.ingest import IngestRegistry
from qzd_daemon.sources.open import Source, SourceFrame, SourceState
from qzd_daemon.sources.open import open_source as open_stream
from qzd_ext.errors import SourceError
from support.tiny_model import encode, paint
from support.videos import cut, pixels, write_clip

FRAMES = [paint((i % 8, i // 8, "green")) for i in range(40)]


def open_source(source: str, *, loop: bool = False) -> Source:
    return open_stream("any", StreamConfig(source=source, model="any", loop=loop), IngestRegistry(1))


def read(source: Source) -> list[SourceFrame]:
    frames = [item for item in source.frames(threading.Event()) if isinstance(item, SourceFrame)]
    source.close()
    return frames


def test_frames_of_a_file_are_those_that_opencv_reads(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", FRAMES)
    video = cv2.VideoCapture(str(clip))
    for captured in read(open_source(str(clip))):
        np.testing.assert_array_equal(video.read()[1], pixels(captured))
    assert not video.read()[0]
    video.release()


def test_frames_of_a_file_have_their_own_time(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", FRAMES, fps=10)
    assert [c.pts_s for c in read(open_source(str(clip)))[:3]] == pytest.approx([0, 0.1, 0.2])


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_end_of_a_file_when_it_is_whole_promises_no_more(tmp_path: Path, name: str) -> None:
    source = open_source(str(write_clip(tmp_path / name, FRAMES)))
    assert len(read(source)) == 40
    assert source.end == "end of file after 40 frames"


def test_end_of_a_file_when_its_index_promises_more_says_so(tmp_path: Path) -> None:
    source = open_source(str(cut(write_clip(tmp_path / "clip.mp4", FRAMES), 0.7)))
    frames = read(source)
    assert 10 < len(frames) < 40
    assert "its header promises 40" in source.end


def test_end_of_a_matroska_file_that_is_cut_off_says_so(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", [*FRAMES, *FRAMES])
    source = open_source(str(cut(clip, 0.4)))
    assert 10 < len(read(source)) < 80
    assert "its header promises 3.2 s: it is truncated" in source.end
    assert not source.complete


def test_frames_of_a_file_when_its_middle_is_damaged_go_on_behind_it(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", FRAMES)
    content = bytearray(clip.read_bytes())
    middle = content.find(b"mdat") + (len(content) - content.find(b"mdat")) // 2
    content[middle : middle + 300] = bytes(300)
    clip.write_bytes(content)
    frames = read(open_source(str(clip)))
    assert len(frames) >= 39
    np.testing.assert_array_equal(frames[-1].frame is not None, True)


def test_frames_of_a_file_that_ffmpeg_has_made_up_are_damaged(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", FRAMES, codec="libx264", gop=40)
    content = bytearray(clip.read_bytes())
    middle = content.find(b"mdat") + (len(content) - content.find(b"mdat")) // 2
    content[middle : middle + 100] = bytes(100)
    clip.write_bytes(content)
    frames = read(open_source(str(clip)))
    first = next(index for index, captured in enumerate(frames) if captured.reason)
    assert 0 < first < 30
    assert all("damaged video data" in (c.reason or "") for c in frames[first:])  # no key frame ends it
    assert all(c.pts_s for c in frames[first:])
    assert any(c.frame is not None for c in frames[first:])


@pytest.mark.parametrize("quarter", [((0, 1), (-1, 0)), ((-1, 0), (0, -1)), ((0, -1), (1, 0))])
def test_frames_of_a_file_that_is_shown_turned_are_those_that_opencv_reads(
    tmp_path: Path, quarter: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    wide = [np.hstack([frame, frame // 2]) for frame in FRAMES[:3]]
    clip = write_clip(tmp_path / "clip.mp4", wide)
    content = bytearray(clip.read_bytes())
    begin = content.find(b"tkhd") + 44  # its matrix; ISO/IEC 14496-12, 8.3.2
    (a, b), (c, d) = quarter
    content[begin : begin + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    clip.write_bytes(content)
    video = cv2.VideoCapture(str(clip))
    for captured in read(open_source(str(clip))):
        np.testing.assert_array_equal(video.read()[1], pixels(captured))
    video.release()


@pytest.mark.parametrize("second", [-1, 1])
@pytest.mark.parametrize("first", [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_frames_of_a_file_lie_where_its_matrix_moves_each_pixel(
    tmp_path: Path, first: tuple[int, int], second: int
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [np.hstack([FRAMES[9], FRAMES[9] // 2])])
    (plain,) = (pixels(captured) for captured in read(open_source(str(clip))))
    content = bytearray(clip.read_bytes())
    begin = content.find(b"tkhd") + 44
    a, b = first
    c, d = second * b, second * a
    content[begin : begin + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    clip.write_bytes(content)
    (shown,) = (pixels(captured) for captured in read(open_source(str(clip))))
    y, x = np.indices(plain.shape[:2])
    right, down = a * x + c * y, b * x + d * y
    np.testing.assert_array_equal(shown[down - down.min(), right - right.min()], plain)


def test_frames_of_a_file_whose_lines_go_from_the_bottom_up_are_upright(tmp_path: Path) -> None:
    clip = tmp_path / "clip.avi"
    write_clip(clip, [np.ascontiguousarray(f[::-1]) for f in FRAMES[:3]], codec="rawvideo", pix_fmt="bgr24")
    content = bytearray(clip.read_bytes())
    header = content.find(b"strf") + 8  # a BITMAPINFOHEADER, whose lines are said to go from the top down
    height, planes, bits, _ = struct.unpack_from("<iHHI", content, header + 8)
    struct.pack_into("<iHHI", content, header + 8, -height, planes, bits, 0)
    clip.write_bytes(content)
    for captured, frame in zip(read(open_source(str(clip))), FRAMES[:3], strict=True):
        np.testing.assert_array_equal(pixels(captured), frame)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("nowhere.mp4", None, "no such file or directory"),
        ("text.mp4", b"this is no video", "Invalid data"),
        ("empty.mp4", b"", "Invalid data"),
        ("x" * 300, None, "cannot be read: File name too long"),
    ],
)
def test_open_when_there_is_no_video_names_the_file(
    tmp_path: Path, name: str, content: bytes | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=expected) as caught:
        open_source(str(tmp_path / name))
    assert name in str(caught.value)


def test_open_when_the_file_is_another_users_says_who_must_be_able_to_read_it() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        clip = write_clip(Path(directory) / "clip.mp4", FRAMES[:1])
        clip.chmod(0)
        before = os.geteuid()
        os.seteuid(before or 65534)  # root may read all
        try:
            with pytest.raises(SourceError, match=r"Permission denied\n.*that the daemon's user may read"):
                open_source(str(clip))
        finally:
            os.seteuid(before)


def test_open_when_it_is_a_device_does_not_say_that_it_is_not_there() -> None:
    with pytest.raises(SourceError, match="/dev/null: neither a file nor a directory"):
        open_source("/dev/null")


def test_frames_of_a_directory_come_by_name_and_say_what_is_no_image(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        cv2.imwrite(str(tmp_path / name), FRAMES[0])
    (tmp_path / "c.jpg").write_bytes(b"this is no image")
    (tmp_path / "d.jpg").write_bytes(b"")
    png = (tmp_path / "a.png").read_bytes()
    (tmp_path / "e.png").write_bytes(png[:33] + b"\xe3" + png[34:])
    claimed = int.from_bytes(b"\xe3" + png[34:37], "big")  # 3 GiB
    (tmp_path / ".hidden").write_bytes(b"")
    source = open_source(str(tmp_path))
    assert [(c.file, c.reason) for c in read(source)] == [
        ("a.png", None),
        ("b.png", None),
        ("c.jpg", "c.jpg: not an image"),
        ("d.jpg", "d.jpg: not an image"),
        ("e.png", f"e.png: this is not a png image: its chunk b'IDAT' of {claimed} bytes is cut off"),
    ]
    assert source.end == "end of directory after 2 images, 3 more could not be decoded"


def test_frames_of_a_directory_when_a_name_is_no_utf8_have_one_that_can_be_sent(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/0\xff.txt")).write_bytes(b"this is no image")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/1\xff.png")).write_bytes(encode(FRAMES[0]))
    first, second = read(open_source(str(tmp_path)))
    assert (first.file, first.reason) == ("0\ufffd.txt", "0\ufffd.txt: not an image")
    assert (second.file, second.reason) == ("1\ufffd.png", None)


def test_open_when_the_directory_is_empty_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no file in it"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_frames_when_looping_come_over_and_over(tmp_path: Path, kind: str) -> None:
    if kind == "file":
        source = open_source(str(write_clip(tmp_path / "clip.mp4", FRAMES[:3])), loop=True)
    else:
        cv2.imwrite(str(tmp_path / "a.png"), FRAMES[0])
        source = open_source(str(tmp_path), loop=True)
    frames = (item for item in source.frames(threading.Event()) if isinstance(item, SourceFrame))
    taken = list(itertools.islice(frames, 10))
    source.close()
    assert len(taken) == 10
    if kind == "file":
        assert [c.pts_s for c in taken[:4]] == pytest.approx([0, 0.04, 0.08, 0])


def test_frames_when_a_file_that_loops_has_no_video_any_more_say_so(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", FRAMES[:1])
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    source = open_source(str(clip), loop=True)
    frames = source.frames(threading.Event())
    assert [type(next(frames)) for _ in range(2)] == [SourceState, SourceFrame]
    (tmp_path / "sound.wav").rename(clip)
    with pytest.raises(SourceError, match="there is no video in it"):
        next(frames)
    source.close()


def test_frames_when_a_directory_that_loops_has_no_image_any_more_say_so(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    frames = open_source(str(tmp_path), loop=True).frames(threading.Event())
    assert [type(next(frames)) for _ in range(2)] == [SourceState, SourceFrame]
    with pytest.raises(SourceError, match="no file in it is an image"):
        next(frames)
