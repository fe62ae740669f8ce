"""The directory of compiled models: checked before it is used, and kept within its bound.

OpenVINO writes a file for each model, device, option and version of itself, and never removes one. Each
bundle has a folder of its own, so only the files that may be used are hashed. It is only a cache: whatever
goes wrong with it stops nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

from qzd_ext.files import sha256_of

__all__ = ["checked", "prune"]

log = logging.getLogger(__name__)


@contextlib.contextmanager
def checked(directory: Path | None, digest: str) -> Iterator[Path | None]:
    """Give the folder of one bundle's compiled models, without those that are damaged.

    Parameters
    ----------
    directory : Path or None
        The cache; None for none.
    digest : str
        The bundle's.

    Yields
    ------
    Path or None
        For OpenVINO's `CACHE_DIR`. What it has written there when the context ends gets a checksum.
    """
    if directory is None:
        yield None
        return
    folder = directory / hashlib.sha256(digest.encode()).hexdigest()[:16]
    with _forgiving(directory, "be checked"):
        for blob in folder.glob("*.blob"):
            if not _is_whole(blob):
                log.warning("%s: the compiled model is damaged, so it is compiled again", blob)
                _remove(blob)
    yield folder
    with _forgiving(directory, "be given checksums"):
        for blob in folder.glob("*.blob"):
            if not _checksum(blob).exists():
                _checksum(blob).write_text(sha256_of(blob))


def prune(directory: Path, most_bytes: int) -> int:
    """Remove the compiled models that were used longest ago, until the rest fits.

    Parameters
    ----------
    directory : Path
        The cache. Only `*.blob` files and their checksums are touched.
    most_bytes : int
        That all of them together may take.

    Returns
    -------
    int
        How many were removed.
    """
    removed = 0
    with _forgiving(directory, "be kept within its bound"):
        blobs = [(path, path.stat()) for path in directory.rglob("*.blob")]
        taken = sum(stat.st_size for _, stat in blobs)
        for path, stat in sorted(blobs, key=lambda blob: max(blob[1].st_atime, blob[1].st_mtime)):
            if taken <= most_bytes:
                break
            _remove(path)
            taken -= stat.st_size
            removed += 1
    return removed


@contextlib.contextmanager
def _forgiving(directory: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.warning("%s: the compile cache could not %s: %s", directory, what, error)


def _checksum(blob: Path) -> Path:
    return blob.with_suffix(".sha256")


def _is_whole(blob: Path) -> bool:
    """Without a checksum, the process ended before the file was complete."""
    return _checksum(blob).exists() and _checksum(blob).read_bytes() == sha256_of(blob).encode()


def _remove(blob: Path) -> None:
    _checksum(blob).unlink(missing_ok=True)
    blob.unlink(missing_ok=True)
