"""Cameras, which come and go: over the network by RTSP and HTTP, and at this machine by V4L2."""

from __future__ import annotations

import errno
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import av.container
import av.error
from av.container import Flags

from qzd_daemon.config.schema import V4L2, StreamConfig
from qzd_daemon.sources.decode import decode_frames
from qzd_daemon.sources.frames import SourceFrame, SourceState
from qzd_daemon.sources.hardware import decoder

__all__ = ["Camera", "DeviceCamera", "Pause"]

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
FIRST_PICTURE = 6  # times `timeout_s`: a connection may begin in the middle of a long group of pictures


class Pause:
    """How long to wait before the next try: doubling up to a cap, less up to half of it by chance.

    The chance keeps a room full of streams from falling upon a camera server that has come back.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._longest = FIRST_PAUSE_SECONDS

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        seconds = self._longest * self._rng.uniform(0.5, 1.0)
        self._longest = min(self._longest * 2, LONGEST_PAUSE_SECONDS)
        return seconds

    def reset(self) -> None:
        """Frames have come."""
        self._longest = FIRST_PAUSE_SECONDS


class Camera:
    """An RTSP or HTTP stream, read by FFmpeg.

    Parameters
    ----------
    config : StreamConfig
        Its `source` is a URL; `timeout_s` holds for the connection and for each read.
    """

    live = True
    end = ""
    complete = True

    def __init__(self, config: StreamConfig) -> None:
        self._config = config
        self._pause = Pause(random.Random())  # noqa: S311 - not a secret

    def frames(self, stopping: threading.Event) -> Iterator[SourceFrame | SourceState]:
        """Frames and states until it is told to stop."""
        yield SourceState("connecting", self._config.address)
        while not stopping.is_set():
            try:
                with self._connect() as container:
                    yield from self._read(container, stopping)
                reason = "its stream has ended"
            except (av.error.FFmpegError, OSError) as error:
                reason = self._describe(error)
            seconds = self._pause.next()
            yield SourceState(
                "reconnecting", f"{self._config.address}: {reason}; next try in {seconds:.1f} s"
            )
            stopping.wait(seconds)

    def _connect(self) -> av.container.InputContainer:
        # the last: what goes on under other numbers in an MPEG-TS would be read, and never handed on
        options = {"fflags": "nobuffer", "flags": "low_delay", "merge_pmt_versions": "1"}
        if self._config.source.startswith("rtsp"):
            options["rtsp_transport"] = self._config.rtsp_transport
        timeout = self._config.timeout_s
        return av.open(self._config.source, options=options, timeout=(timeout, timeout))

    def _read(
        self, container: av.container.InputContainer, stopping: threading.Event
    ) -> Iterator[SourceFrame | SourceState]:
        if not container.streams.video:
            raise OSError(None, "there is no video in it")
        yield SourceState("running")
        seen, begun = time.monotonic(), False

        def wait(seconds: float) -> bool:
            limit = self._config.timeout_s * (1 if begun or seconds else FIRST_PICTURE)
            if time.monotonic() - seen > limit:
                raise OSError(errno.ETIMEDOUT, f"no whole picture came for {limit:g} s")
            return not stopping.wait(seconds)

        decode = decoder(container, self._config.address, hardware=self._config.hardware_decoding)
        for captured in decode_frames(container, decode, wait):
            yield captured
            if captured.frame is not None:
                self._pause.reset()
                seen, begun = time.monotonic(), True  # now: whoever takes it may have let it wait
            else:
                wait(0.0)  # a camera that has changed its codec sends nothing else any more

    def close(self) -> None:
        """Nothing is kept open between frames."""

    def _describe(self, error: Exception) -> str:
        if isinstance(error, av.error.ExitError | av.error.TimeoutError):
            return f"nothing came for {self._config.timeout_s:g} s"
        return getattr(error, "strerror", None) or str(error)


class DeviceCamera(Camera):
    """A camera at this machine, read by FFmpeg as it is set up: size, format and rate are the device's own.

    It is read without waiting for it: a driver that waits in the kernel could not be interrupted.
    """

    def _connect(self) -> av.container.InputContainer:
        path = self._config.source.removeprefix(V4L2)
        if not Path(path).exists():
            there = ", ".join(sorted(map(str, Path("/dev").glob("video*")))) or "none"
            raise OSError(errno.ENODEV, f"there is no such device; cameras that are there: {there}")
        flags = Flags.no_buffer | Flags.non_block  # by number: FFmpeg has no name for the second
        timeout = self._config.timeout_s
        return av.open(path, format="v4l2", options={"fflags": str(flags.value)}, timeout=(timeout, timeout))
