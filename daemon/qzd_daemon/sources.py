"""Where frames come from: video files and directories of images.

What may live here: opening and reading, one class a kind of source. Threads, pace and what becomes of the
frames are in `streams`. What cannot be decoded is handed on as such, never left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

import av
import av.error
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from qzd_ext.errors import SourceError
from qzd_ext.geometry import Frame

__all__ = ["Captured", "DirectorySource", "FileSource", "Source", "open_source"]


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """What a source delivered: a frame, or the reason why there is none.

    Attributes
    ----------
    frame : (h, w, 3) uint8 BGR, or None
    reason : str or None
        Why it could not be decoded.
    pts_s : float or None
        The frame's own time in its video, in seconds.
    file : str or None
        The file's name, for a directory.
    captured_ns : int
        Wall clock.
    ready : float
        `time.perf_counter()` of the same moment.
    """

    frame: Frame | None
    reason: str | None = None
    pts_s: float | None = None
    file: str | None = None
    captured_ns: int = field(default_factory=time.time_ns)
    ready: float = field(default_factory=time.perf_counter)


class Source(Protocol):
    """A source that is open; read by one thread, closed by the same."""

    end: str
    """After the last frame: how the source ended, as a clause."""

    def frames(self) -> Iterator[Captured]:
        """Frames until the source ends.

        Raises
        ------
        SourceError
            The source is gone.
        """
        ...

    def close(self) -> None:
        """Let go of files and decoders."""
        ...


def open_source(source: str) -> Source:
    """Open a file or a directory.

    Raises
    ------
    SourceError
        It is not there, or there is nothing to read in it.
    """
    path = Path(source)
    if path.is_dir():
        return DirectorySource(path)
    if path.is_file():
        return FileSource(path)
    raise SourceError(
        f"{source}: no such file or directory",
        wanted="a video file, or a directory of images",
        fix="correct the stream's `source`; a relative path begins at the configuration file",
    )


class FileSource:
    """A video file, read by FFmpeg. Damaged data is delivered as a frame that cannot be decoded."""

    def __init__(self, path: Path) -> None:
        self.end = ""
        self._path = path
        try:
            self._container = av.open(str(path))
        except (av.error.FFmpegError, OSError) as error:
            raise self._unreadable(error.strerror or str(error)) from error
        if not self._container.streams.video:
            self.close()
            raise self._unreadable("there is no video in it")

    def _unreadable(self, found: str) -> SourceError:
        return SourceError(
            f"{self._path}: {found}",
            wanted="a video that FFmpeg can read",
            fix="play it to see whether it is whole; a recording that was cut off before its index was "
            "written must be repaired or recorded again",
        )

    def frames(self) -> Iterator[Captured]:
        """Frames until the end of the file."""
        video = self._container.streams.video[0]
        reformatter = VideoReformatter()
        packets = self._container.demux(video)
        decoded = damaged = 0
        last = 0.0
        while True:
            try:
                packet = next(packets, None)
                pictures = packet.decode() if packet else []
            except av.error.FFmpegError as error:
                damaged += 1
                yield Captured(None, f"damaged video data: {error.strerror}")
                continue
            if packet is None:
                break
            for picture in pictures:
                decoded += 1
                last = max(last, picture.time or 0.0)
                yield Captured(_to_bgr(picture, reformatter), pts_s=picture.time)
        self.end = _describe_end(video, decoded, damaged, last)

    def close(self) -> None:
        """Close the file."""
        self._container.close()


def _to_bgr(picture: av.VideoFrame, reformatter: VideoReformatter) -> Frame:
    """One reformatter a source keeps FFmpeg's conversion tables between frames."""
    frame = reformatter.reformat(picture, format="bgr24", threads=1).to_ndarray()
    return cast("Frame", frame)


def _describe_end(video: av.VideoStream, decoded: int, damaged: int, last: float) -> str:
    """How a file ended, and what its header had promised beyond that."""
    text = f"end of file after {decoded} frames"
    if damaged:
        text += f", {damaged} more could not be decoded"
    if video.frames > decoded:
        return f"{text}; its header promises {video.frames}: it is damaged or truncated"
    promised = float(video.duration * video.time_base) if video.duration and video.time_base else 0.0
    if promised - last > max(1.0, 0.02 * promised):
        return f"{text} and {last:.1f} s; its header promises {promised:.1f} s: it is truncated"
    return text


class DirectorySource:
    """A directory of images, by name. A file that is no image is a frame that cannot be decoded."""

    def __init__(self, path: Path) -> None:
        self.end = ""
        self._paths = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        if not self._paths:
            raise SourceError(
                f"{path}: there is no file in it",
                wanted="a directory of images",
                fix="correct the stream's `source`, or put images there before the start",
            )

    def frames(self) -> Iterator[Captured]:
        """One frame a file."""
        damaged = 0
        for path in self._paths:
            frame, reason = _read_image(path)
            damaged += frame is None
            yield Captured(frame, reason, file=path.name)
        self.end = f"end of directory after {len(self._paths) - damaged} images"
        if damaged:
            self.end += f", {damaged} more files could not be decoded"

    def close(self) -> None:
        """Nothing is kept open."""


def _read_image(path: Path) -> tuple[Frame | None, str | None]:
    """The image, or why there is none."""
    try:
        content = np.frombuffer(path.read_bytes(), np.uint8)
        image = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    except OSError as error:
        return None, f"{path.name}: cannot be read: {error.strerror}"
    except cv2.error as error:
        return None, f"{path.name}: cannot be decoded: {error.err}"
    if image is None:
        return None, f"{path.name}: not an image"
    return np.asarray(image, np.uint8), None
