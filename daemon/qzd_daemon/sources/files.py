"""Sources that are files: videos and directories of images."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import av
import av.container
import av.error
import cv2
import numpy as np
from av.video.codeccontext import VideoCodecContext

from qzd_daemon.sources.decode import decode_frames
from qzd_daemon.sources.frames import SourceFrame, SourceState, Tally
from qzd_daemon.sources.hardware import decoder
from qzd_ext.errors import SourceError
from qzd_ext.geometry import Frame
from qzd_ext.images import NotAnImageError, check_png

__all__ = ["DirectorySource", "FileSource"]


class FileSource:
    """A video file, read by FFmpeg, once or over and over."""

    live = False

    def __init__(self, path: Path, *, loop: bool = False, hardware: bool = False) -> None:
        self.end = ""
        self.complete = True
        self._path = path
        self._loop = loop
        self._hardware = hardware
        self._decoded = 0
        self._container = self._open()

    def _open(self) -> av.container.InputContainer:
        try:
            container = av.open(str(self._path))
        except (av.error.FFmpegError, OSError) as error:
            raise self._unreadable(error.strerror or str(error)) from error
        if not container.streams.video:
            container.close()
            raise self._unreadable("there is no video in it")
        if cast("VideoCodecContext | None", container.streams.video[0].codec_context) is None:
            container.close()
            raise self._unreadable("its video is of a kind that FFmpeg cannot decode")
        return container

    def _unreadable(self, found: str) -> SourceError:
        return SourceError(
            f"{self._path}: {found}",
            wanted="a video that FFmpeg can read",
            fix="play it to see whether it is whole; a recording that was cut off before its index was "
            "written must be repaired or recorded again",
        )

    def frames(self, stopping: threading.Event) -> Iterator[SourceFrame | SourceState]:
        """Frames until the end of the file."""
        yield SourceState("running")
        yield from self._once()
        while self._loop and not stopping.is_set():
            if not self._decoded:
                raise self._unreadable("no frame in it can be decoded")
            self.close()
            self._container = self._open()
            yield from self._once()

    def _once(self) -> Iterator[SourceFrame]:
        tally, last = Tally(), 0.0
        try:
            decode = decoder(self._container, self._path.name, hardware=self._hardware)
            for frame in decode_frames(self._container, decode):
                tally.add(frame)
                last = max(last, frame.pts_s or 0.0)
                yield frame
        except (av.error.FFmpegError, OSError) as error:
            raise self._unreadable(error.strerror or str(error)) from error
        if not tally.frames:
            raise self._unreadable("there is no frame in it")
        self._decoded = tally.frames - tally.undecodable
        missing = _describe_missing(self._container.streams.video[0], self._decoded, last)
        self.end = f"end of file after {self._decoded} frames{tally.describe()}{missing}"
        self.complete = tally.complete and not missing

    def close(self) -> None:
        """Close the file."""
        self._container.close()


def _describe_missing(video: av.VideoStream, decoded: int, last: float) -> str:
    """Describe what a file's header promises beyond what came."""
    if video.frames > decoded:
        return f"; its header promises {video.frames}: it is damaged or truncated"
    promised = float(video.duration * video.time_base) if video.duration and video.time_base else 0.0
    if promised - last > max(1.0, 0.02 * promised):
        return f" and {last:.1f} s; its header promises {promised:.1f} s: it is truncated"
    return ""


class DirectorySource:
    """A directory of images, by name. A file that is no image is a frame that cannot be decoded."""

    live = False

    def __init__(self, path: Path, *, loop: bool = False) -> None:
        self.end = ""
        self.complete = True
        self._path = path
        self._loop = loop
        self._decoded = 0
        self._paths = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        if not self._paths:
            raise SourceError(
                f"{path}: there is no file in it",
                wanted="a directory of images",
                fix="correct the stream's `source`, or put images there before the start",
            )

    def frames(self, stopping: threading.Event) -> Iterator[SourceFrame | SourceState]:
        """One frame a file."""
        yield SourceState("running")
        yield from self._once()
        while self._loop and not stopping.is_set():
            if not self._decoded:
                raise SourceError(
                    f"{self._path}: not one of its {len(self._paths)} files is an image any more",
                    fix="put images there again, and restart qzd",
                )
            yield from self._once()

    def _once(self) -> Iterator[SourceFrame]:
        tally = Tally()
        for path in self._paths:
            image, reason = _read_image(path)
            frame = SourceFrame(image, reason and f"{_shown(path)}: {reason}", file=_shown(path))
            tally.add(frame)
            yield frame
        self._decoded = tally.frames - tally.undecodable
        self.end = f"end of directory after {self._decoded} images{tally.describe()}"
        self.complete = tally.complete

    def close(self) -> None:
        """Nothing is kept open."""


def _shown(path: Path) -> str:
    """A file's name as it can be sent: in Linux it is bytes, and may be no UTF-8."""
    return os.fsencode(path.name).decode("utf-8", "replace")


def _read_image(path: Path) -> tuple[Frame | None, str | None]:
    """The image, or why there is none."""
    try:
        content = path.read_bytes()
        check_png(content)
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    except OSError as error:
        return None, f"cannot be read: {error.strerror}"
    except NotAnImageError as error:
        return None, error.found
    except cv2.error as error:
        return None, f"cannot be decoded: {error.err}"
    if image is None:
        return None, "not an image"
    return np.asarray(image, np.uint8), None
