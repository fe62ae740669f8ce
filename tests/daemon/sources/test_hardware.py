"""Decoding in hardware that does not exist, and by a decoder that does."""

from __future__ import annotations

import itertools
import logging
import threading
from pathlib import Path

import av
import numpy as np
import pytest

from qzd_daemon.sources.decode import decode_frames
from qzd_daemon.sources.files import FileSource
from qzd_daemon.sources.frames import SourceFrame
from qzd_daemon.sources.hardware import HardwareDecoder
from qzd_ext.errors import SourceError
from support.tiny_model import paint
from support.videos import pixels, write_clip

FRAMES = [paint((i % 8, i // 8, "green")) for i in range(20)]


def read(clip: Path, count: int, *, hardware: bool) -> list[SourceFrame]:
    source = FileSource(clip, hardware=hardware)
    frames = (item for item in source.frames(threading.Event()) if isinstance(item, SourceFrame))
    first = list(itertools.islice(frames, count))
    source.close()
    return first


def same(frames: list[SourceFrame], expected: list[SourceFrame]) -> bool:
    assert [(f.reason, f.pts_s) for f in frames] == [(e.reason, e.pts_s) for e in expected]
    pairs = zip(frames, expected, strict=True)
    return all(np.array_equal(pixels(f), pixels(e)) for f, e in pairs)


@pytest.mark.skipif(Path("/dev/dri").exists(), reason="there may be hardware that decodes")
def test_frames_when_there_is_no_hardware_are_those_of_software_and_the_log_says_so_once(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    video = data / "videos" / "car-detection.mp4"
    with caplog.at_level(logging.WARNING):
        assert same(read(video, 40, hardware=True), read(video, 40, hardware=False))
    (record,) = caplog.records
    assert record.getMessage().startswith("car-detection.mp4 is decoded in software: h264_qsv: ")


def test_frames_when_the_codec_is_unknown_are_an_error_with_hardware_as_without(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.avi", FRAMES)
    clip.write_bytes(clip.read_bytes().replace(b"FMP4", b"ZZZZ"))
    for hardware in (False, True):
        with pytest.raises(SourceError, match=r"clip\.avi: "):
            read(clip, 1, hardware=hardware)


@pytest.mark.parametrize(("name", "said"), [("nothing", "there is no such decoder"), (None, "is decoded by")])
def test_decoder_by_its_name_gives_the_frames_that_the_default_gives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str | None, said: str
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", FRAMES)
    with caplog.at_level(logging.INFO), av.open(str(clip)) as container:
        video = container.streams.video[0]
        decode = HardwareDecoder(video, name or video.codec_context.codec.name, "clip").decode
        assert same(list(decode_frames(container, decode)), read(clip, 20, hardware=False))
    (record,) = caplog.records
    assert said in record.getMessage()
