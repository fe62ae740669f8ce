"""Cameras, which come and go: over the network, and at this machine by V4L2.

A camera never ends and never fails the daemon: a failure is a state of its stream, and is tried again.
"""

from __future__ import annotations

import errno
import random
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import av
import av.container
import av.error
import av.logging
from av.container import Flags

from qzd_daemon.config.schema import V4L2, StreamConfig
from qzd_daemon.sources.credentials import Credentials
from qzd_daemon.sources.damage import Messages, losses
from qzd_daemon.sources.decode import decode_frames
from qzd_daemon.sources.frames import SourceFrame, SourceState
from qzd_daemon.sources.hardware import decoder
from qzd_daemon.sources.protocols import ffmpeg_options
from qzd_daemon.sources.reasons import REDIRECTED, describe
from qzd_ext.errors import SourceError

__all__ = ["Camera", "DeviceCamera", "Pause"]

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
WHOLE = 6  # times `timeout_s`: a connection may begin in the middle of a long group of pictures


class Pause:
    """How long to wait before the next try: doubling up to a cap, minus up to half of it at random.

    So not all streams connect at the same moment to a server that has come back.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._longest = FIRST_PAUSE_SECONDS

    def next(self) -> float:
        """Return the seconds to wait after one more failure."""
        seconds = self._longest * self._rng.uniform(0.5, 1.0)
        self._longest = min(self._longest * 2, LONGEST_PAUSE_SECONDS)
        return seconds

    def reset(self) -> None:
        """Begin again, since frames have come."""
        self._longest = FIRST_PAUSE_SECONDS


class Camera:
    """A stream over the network, read by FFmpeg.

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
        self._probed: Messages = ()  # what FFmpeg said about losses while it connected

    def frames(self, stopping: threading.Event) -> Iterator[SourceFrame | SourceState]:
        """Deliver frames and states until it is told to stop."""
        yield SourceState("connecting", self._config.address)
        while not stopping.is_set():
            try:
                container = self.open()
            except SourceError as error:
                reason = error.found
            else:
                with container:
                    reason = yield from self._read_until_it_ends(container, stopping)
            seconds = self._pause.next()
            yield SourceState(
                "reconnecting", f"{self._config.address}: {reason}; next try in {seconds:.1f} s"
            )
            stopping.wait(seconds)

    def open(self) -> av.container.InputContainer:
        """Connect once.

        Raises
        ------
        SourceError
            It says why that failed, without a password.
        """
        credentials = Credentials(self._config)
        with av.logging.Capture() as said:
            try:
                container = self._connect(credentials)
            except (av.error.FFmpegError, OSError) as error:
                raise SourceError(credentials.redact(self._describe(error, said))) from error
        if not container.streams.video:
            container.close()
            raise SourceError("there is no video in it")
        self._probed = losses(said)
        return container

    def _connect(self, credentials: Credentials) -> av.container.InputContainer:
        timeout = self._config.timeout_s
        return av.open(credentials.url, options=ffmpeg_options(self._config), timeout=(timeout, timeout))

    def _read_until_it_ends(
        self, container: av.container.InputContainer, stopping: threading.Event
    ) -> Generator[SourceFrame | SourceState, None, str]:
        """Deliver the frames of a connection; return why it has ended."""
        try:
            yield from self._read(container, stopping)
        except (av.error.FFmpegError, OSError) as error:
            return self._describe(error, ())
        return "its stream has ended"

    def _read(
        self, container: av.container.InputContainer, stopping: threading.Event
    ) -> Iterator[SourceFrame | SourceState]:
        yield SourceState("connected", self._config.address)
        patience = _Patience(self._config.timeout_s, stopping)
        decode = decoder(
            container, self._config.address, hardware=self._config.hardware_decoding, skip=self._config.skip
        )
        for frame in decode_frames(container, decode, patience.wait, self._probed):
            if frame.frame is not None and not patience.pictures:
                yield SourceState("running")
            if frame.whole or patience.pictures or patience.waited_long:
                yield frame
            patience.note(frame)
            if frame.whole:
                self._pause.reset()

    def close(self) -> None:
        """Do nothing: no connection stays open between frames."""

    def _describe(self, error: av.error.FFmpegError | OSError, said: Messages) -> str:
        if isinstance(error, av.error.ExitError | av.error.TimeoutError):
            return f"nothing came for {self._config.timeout_s:g} s"
        if error.errno == errno.EIO and self._config.scheme in ("http", "https") and not said:
            return REDIRECTED  # all that FFmpeg says of it
        return describe(error, said)


class _Patience:
    """How long a connection is kept that gives no pictures, or no whole ones.

    What comes before the first whole picture is what a connection in the middle of a group of pictures begins
    with: it is left out, unless it lasts.
    """

    def __init__(self, timeout: float, stopping: threading.Event) -> None:
        self._timeout = timeout
        self._stopping = stopping
        self._begun = self._picture_at = self._whole_at = time.monotonic()
        self.pictures = False

    @property
    def waited_long(self) -> bool:
        """Whether it is time to deliver what is not whole, too."""
        return time.monotonic() - self._begun > self._timeout

    def note(self, frame: SourceFrame) -> None:
        """Note a frame that was taken: it may have had to wait for that."""
        if frame.frame is not None:
            self._picture_at = time.monotonic()
            self.pictures = self.pictures or frame.whole or self.waited_long
        if frame.whole:
            self._whole_at = self._picture_at
        else:
            self.wait(0.0)

    def wait(self, seconds: float) -> bool:
        """Wait; return whether to go on, or raise OSError if pictures are overdue."""
        now, first = time.monotonic(), WHOLE * self._timeout
        limit = self._timeout if self.pictures or seconds else first
        if now - self._picture_at > limit:
            raise OSError(errno.ETIMEDOUT, f"no picture came for {limit:g} s")
        if now - self._whole_at > first:  # a new connection begins with a key frame
            raise OSError(errno.ETIMEDOUT, f"no whole picture came for {first:g} s")
        return not self._stopping.wait(seconds)


class DeviceCamera(Camera):
    """A camera at this machine, read by FFmpeg; `options` may set its size, format and rate.

    It is read without waiting for it: a driver that waits in the kernel could not be interrupted.
    """

    def _connect(self, _: Credentials) -> av.container.InputContainer:
        path = self._config.source.removeprefix(V4L2)
        if not Path(path).exists():
            there = ", ".join(sorted(map(str, Path("/dev").glob("video*")))) or "none"
            raise OSError(errno.ENODEV, f"there is no such device; cameras that are there: {there}")
        options = {**self._config.options, "fflags": str(Flags.non_block.value)}  # FFmpeg has no name for it
        timeout = self._config.timeout_s
        return av.open(path, format="v4l2", options=options, timeout=(timeout, timeout))
