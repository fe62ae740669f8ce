"""Videos made by the test, so that each of their frames is known."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from qzd_daemon.sources.frames import SourceFrame
from qzd_ext.geometry import Frame

__all__ = ["cut", "pixels", "read_frames", "write_clip"]


def write_clip(
    path: Path,
    frames: list[Frame],
    fps: int = 25,
    *,
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    gop: int = 1,
) -> Path:
    """Write a video, intra-only unless told, its index in front: what is left of a cut file can be read."""
    options = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=Fraction(fps))
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.gop_size = gop
        stream.bit_rate = 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        container.mux(stream.encode(None))
    return path


def read_frames(path: Path) -> Iterator[Frame]:
    """Decode every frame of a video by OpenCV, which shares no code with the daemon's decoding."""
    capture = cv2.VideoCapture(str(path))
    while True:
        read, frame = capture.read()
        if not read:
            break
        yield np.asarray(frame, np.uint8)
    capture.release()


def cut(path: Path, share: float) -> Path:
    """Keep only the first part of a file's bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def pixels(captured: SourceFrame) -> Frame:
    """Return the whole frame that a source delivered, in BGR."""
    frame = captured.frame
    assert frame is not None, captured.reason
    return frame if isinstance(frame, np.ndarray) else frame.to_bgr()
