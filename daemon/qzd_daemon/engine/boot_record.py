"""Which bundles have ended the process: such a version is not tried again, and the one before it serves.

As A/B updates do, a new bundle is on probation from the start of its load until it has served for a while.
What is on probation when the process starts has ended it before. Without a directory for the record, nothing
is remembered.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from qzd_ext.bundle import MANIFEST, locate, numbered
from qzd_ext.files import hash_file, read_file
from qzd_ext.manifest import MAX_MANIFEST_BYTES

__all__ = ["BootRecord"]

log = logging.getLogger(__name__)

FILE = "bundles.json"
MAX_FILE_BYTES = 1 << 20
MAX_REMEMBERED = 200


class _Content(msgspec.Struct):
    """Each maps a bundle's digest to its path, the latest last."""

    trying: dict[str, str] = {}
    ended: dict[str, str] = {}
    """Those that have ended the process."""
    proven: dict[str, str] = {}


class BootRecord:
    """What is known of bundles from one start to the next.

    Parameters
    ----------
    directory : Path or None
        Where the record is kept; None for nowhere.
    """

    def __init__(self, directory: Path | None) -> None:
        self._path = directory / FILE if directory is not None else None
        self._content = self._read()
        self._content.ended.update(self._content.trying)
        self._content.trying.clear()
        self._write()

    def choose(self, bundle: Path) -> tuple[Path, Path | None]:
        """Return the bundle to serve, and the newer one that is passed over.

        Parameters
        ----------
        bundle : Path
            A bundle, or a directory of numbered ones. If every one has ended the process, the highest is
            tried again.

        Raises
        ------
        BundleError
            It does not exist.
        """
        newest = locate(bundle).resolve()
        if not self._has_ended(newest):
            return newest, None
        for path in numbered(bundle):
            if not self._has_ended(path.resolve()):
                return path.resolve(), newest
        log.warning("%s: it has ended the process before; no other version exists, so it is tried", newest)
        return newest, None

    @contextlib.contextmanager
    def attempt(self, path: Path) -> Iterator[None]:
        """Put a bundle on probation while it loads, and after that until `prove`; an error ends it."""
        digest = _digest(path)
        if digest is None or digest in self._content.proven:
            yield
            return
        self._content.trying[digest] = str(path)
        self._write()
        try:
            yield
        except BaseException:
            self._content.trying.pop(digest, None)
            self._write()
            raise

    def prove(self) -> None:
        """End every probation: the bundles have served for a while."""
        if self._content.trying:
            for digest, path in self._content.trying.items():
                self._content.ended.pop(digest, None)
                self._content.proven[digest] = path
            self.forgive()

    def forgive(self) -> None:
        """End every probation without a result: the process is told to stop."""
        self._content.trying.clear()
        self._write()

    def _has_ended(self, path: Path) -> bool:
        return bool(self._content.ended) and _digest(path) in self._content.ended

    def _read(self) -> _Content:
        if self._path is None:
            return _Content()
        try:
            return msgspec.json.decode(read_file(self._path, MAX_FILE_BYTES), type=_Content)
        except FileNotFoundError:
            return _Content()
        except (OSError, ValueError) as error:
            log.warning("%s: the record of bundles cannot be read, and begins anew: %s", self._path, error)
            return _Content()

    def _write(self) -> None:
        """Write the record so that it survives a loss of power at any moment."""
        if self._path is None:
            return
        for table in (self._content.ended, self._content.proven):
            for digest in list(table)[:-MAX_REMEMBERED]:
                del table[digest]
        temporary = self._path.with_suffix(".new")
        try:
            with temporary.open("wb") as file:
                file.write(msgspec.json.encode(self._content))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            log.warning("%s: the record of bundles cannot be written: %s", self._path, error)


def _digest(path: Path) -> str | None:
    try:
        return hash_file(path / MANIFEST, MAX_MANIFEST_BYTES)
    except OSError:  # the load will say so
        return None
