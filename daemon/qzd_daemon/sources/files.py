"""Videos in files: opening, reading, and what the end of a file says about it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import av
import av.container
import av.error
from av.video.codeccontext import VideoCodecContext

from qzd_daemon.sources.decode import decode_frames
from qzd_daemon.sources.frames import SourceFrame, SourceState, Tally
from qzd_daemon.sources.hardware import Skip, decoder
from qzd_ext.errors import SourceError

__all__ = ["FileSource"]


class FileSource:
    """A video file, read by FFmpeg, once or over and over."""

    live = False

    def __init__(
        self, path: Path, *, loop: bool = False, hardware: bool = False, skip: Skip | None = None
    ) -> None:
        self.end = ""
        self.complete = True
        self._path = path
        self._loop = loop
        self._hardware = hardware
        self._skip = skip
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
        """Deliver frames until the end of the file."""
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
            decode = decoder(
                self._container, self._path.name, hardware=self._hardware, skip=self._skip
            )
            for frame in decode_frames(self._container, decode):
                tally.add(frame)
                last = max(last, frame.pts_s or 0.0)
                yield frame
        except (av.error.FFmpegError, OSError) as error:
            raise self._unreadable(error.strerror or str(error)) from error
        if not tally.frames:
            raise self._unreadable("there is no frame in it")
        self._decoded = tally.frames - tally.undecodable
        missing = _describe_missing(self._container, self._decoded, last)
        self.end = f"end of file after {self._decoded} frames{tally.describe()}{missing}"
        self.complete = tally.complete and not missing

    def close(self) -> None:
        """Close the file."""
        self._container.close()


def _describe_missing(container: av.container.InputContainer, decoded: int, last: float) -> str:
    """Describe what a file's header promises beyond what came."""
    video = container.streams.video[0]
    if video.frames > decoded:
        return f"; its header promises {video.frames}: it is damaged or truncated"
    promised = float(video.duration * video.time_base) if video.duration and video.time_base else 0.0
    if not promised and container.duration and len(container.streams) == 1:  # as in Matroska
        promised = container.duration / av.time_base
    if promised - last > max(1.0, 0.02 * promised):
        return f" and {last:.1f} s; its header promises {promised:.1f} s: it is truncated"
    return ""
