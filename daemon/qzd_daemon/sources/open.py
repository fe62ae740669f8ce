"""Open the kind of source that a configuration names."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from qzd_daemon.config.schema import V4L2, StreamConfig
from qzd_daemon.sources.cameras import Camera, DeviceCamera
from qzd_daemon.sources.directory import DirectorySource
from qzd_daemon.sources.files import FileSource
from qzd_daemon.sources.frames import SourceFrame, SourceState
from qzd_daemon.sources.ingest import IngestRegistry, IngestSource
from qzd_daemon.sources.snapshots import SnapshotCamera
from qzd_ext.errors import SourceError

__all__ = ["Source", "SourceFrame", "SourceState", "open_source"]


class Source(Protocol):
    """A source; read by one thread, closed by the same."""

    @property
    def live(self) -> bool:
        """Whether frames come when they happen, not when they are read."""
        ...

    @property
    def end(self) -> str:
        """After the last frame: how the source ended, as a clause."""
        ...

    @property
    def complete(self) -> bool:
        """Whether all that the source promised has come, and come whole; known after the last frame."""
        ...

    def frames(self, stopping: threading.Event) -> Iterator[SourceFrame | SourceState]:
        """Deliver frames and states until the source ends.

        Parameters
        ----------
        stopping : threading.Event
            Ends every wait of the source.

        Raises
        ------
        SourceError
            The source is gone.
        """
        ...

    def close(self) -> None:
        """Release files and decoders."""
        ...


def open_source(name: str, config: StreamConfig, registry: IngestRegistry) -> Source:
    """Open what a stream is read from. A camera is connected to later: it may come and go.

    Parameters
    ----------
    name : str
        The stream's.
    config : StreamConfig
    registry : IngestRegistry
        Where frames that are sent come in.

    Raises
    ------
    SourceError
        A file or directory does not exist, or there is nothing to read in it.
    """
    if config.is_sent:
        return IngestSource(name, config.policy, config.timeout_s, registry)
    if config.source.startswith(V4L2):
        return DeviceCamera(config)
    if config.interval_s is not None:
        return SnapshotCamera(config)
    if config.is_url:
        return Camera(config)
    path = Path(config.source)
    try:
        if path.is_dir():
            return DirectorySource(path, loop=config.loop, watch=config.watch)
        if path.is_file():
            path.open("rb").close()  # if the user may not, the video is not at fault
            return FileSource(path, loop=config.loop, hardware=config.hardware_decoding, skip=config.skip)
        there = path.exists()
    except OSError as error:
        raise SourceError(
            f"{config.source}: cannot be read: {error.strerror}",
            wanted="a file or directory that the daemon's user may read",
            fix="move it, for example to /var/lib/qzd, or let the user read it and enter what it lies in",
        ) from error
    raise SourceError(
        f"{config.source}: {'neither a file nor a directory' if there else 'no such file or directory'}",
        wanted="a video file, a directory of images, a URL of a camera, /dev/videoN or ingest://",
        fix="correct the stream's `source`; a relative path begins at the configuration file",
    )
