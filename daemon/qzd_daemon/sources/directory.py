"""Directories of images: read once, over and over, or followed as files come in."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from inotify_simple import INotify, flags

from qzd_daemon.sources.frames import SourceFrame, SourceState, Tally
from qzd_daemon.sources.stills import read_still
from qzd_ext.errors import QzdError, SourceError

__all__ = ["DirectorySource"]

LOOK_MS = 100  # how soon a stop is noticed while no file comes in
COMES = flags.CLOSE_WRITE | flags.MOVED_TO
GOES = flags.DELETE | flags.MOVED_FROM
GONE = flags.DELETE_SELF | flags.MOVE_SELF | flags.UNMOUNT

Signature = tuple[int, int, int]


class DirectorySource:
    """A directory of images, by name. A file that is not an image is a frame that cannot be decoded.

    Parameters
    ----------
    path : Path
    loop : bool
        Read it over and over, with the files that exist each time.
    watch : bool
        Go on with each file that is written and closed, or moved in, once and in the order in which that
        happens. The directory may be empty.

    Raises
    ------
    SourceError
        There is nothing to read, or the directory cannot be watched.
    """

    live = False

    def __init__(self, path: Path, *, loop: bool = False, watch: bool = False) -> None:
        self.end = ""
        self.complete = True
        self._path = path
        self._loop = loop
        self._tally = Tally()
        self._watch = _Watch(path) if watch else None
        if not watch and not _list_files(path):
            raise self._nothing("there is no file in it")

    def _nothing(self, found: str) -> SourceError:
        return SourceError(
            f"{self._path}: {found}",
            wanted="a directory of images",
            fix="put images there, or correct the stream's `source`",
        )

    def frames(self, stopping: threading.Event) -> Iterator[SourceFrame | SourceState]:
        """Deliver one frame per file."""
        yield SourceState("running")
        if self._watch is not None:
            yield from self._read(self._watch.files(stopping))
            return
        yield from self._read(iter(_list_files(self._path)))
        while self._loop and not stopping.is_set():
            if self._tally.frames == self._tally.undecodable:
                raise self._nothing("no file in it is an image")
            yield from self._read(iter(_list_files(self._path)))

    def _read(self, paths: Iterator[Path]) -> Iterator[SourceFrame]:
        tally = self._tally = Tally()
        for path in paths:
            frame = _read_file(path)
            if frame is not None:
                tally.add(frame)
                yield frame
        self.end = f"end of directory after {tally.frames - tally.undecodable} images{tally.describe()}"
        self.complete = tally.complete

    def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.close()


class _Watch:
    """The files of a directory as they come in, each once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: dict[Path, Signature] = {}
        try:
            self._events = INotify()
            self._events.add_watch(path, COMES | GOES | GONE | flags.ONLYDIR)
        except OSError as error:
            raise SourceError(
                f"{path}: cannot be watched: {error.strerror}",
                wanted="a directory on a local file system",
                fix="if there are too many watches, raise the sysctl fs.inotify.max_user_instances",
            ) from error

    def files(self, stopping: threading.Event) -> Iterator[Path]:
        """Yield the files that exist, by name, then those that come in."""
        yield from self._unread(_list_files(self._path))
        while not stopping.is_set():
            for event in self._events.read(timeout=LOOK_MS):
                path = self._path / event.name
                if event.mask & GONE:
                    raise SourceError(f"{self._path}: the directory was removed or moved away")
                if event.mask & flags.Q_OVERFLOW:
                    yield from self._unread(_list_files(self._path))
                elif event.mask & GOES:
                    self._read.pop(path, None)
                elif event.mask & COMES and not event.mask & flags.ISDIR:
                    yield from self._unread([path])

    def _unread(self, paths: list[Path]) -> Iterator[Path]:
        """Yield those whose present content was not read yet: a file may be listed and reported, too."""
        for path in paths:
            signature = _sign(path)
            if signature is not None and self._read.get(path) != signature:
                self._read[path] = signature
                yield path

    def close(self) -> None:
        self._events.close()


def _list_files(path: Path) -> list[Path]:
    """List the files of a directory by name, without hidden ones: they may be incomplete."""
    try:
        return sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    except OSError as error:
        raise SourceError(f"{path}: cannot be listed: {error.strerror}") from error


def _sign(path: Path) -> Signature | None:
    """Identify a file's content; None if there is no such file, or it is hidden."""
    try:
        status = path.stat()
    except OSError:
        return None
    return None if path.name.startswith(".") else (status.st_ino, status.st_mtime_ns, status.st_size)


def _read_file(path: Path) -> SourceFrame | None:
    """Read a file as a frame; None if it was removed meanwhile, which is not an error."""
    name = os.fsencode(path.name).decode("utf-8", "replace")  # what can be sent: a name may not be UTF-8
    try:
        return SourceFrame(read_still(path.read_bytes()), file=name)
    except FileNotFoundError:
        return None
    except OSError as error:
        return SourceFrame(None, f"{name}: cannot be read: {error.strerror}", file=name)
    except QzdError as error:
        return SourceFrame(None, f"{name}: {error.found}", file=name)
