"""Read files that strangers may have made: regular files only, within a limit, hashed as they are read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["hash_file", "read_array", "read_file", "sha256_of"]

PIECE = 1 << 20  # bytes that are read and hashed at once, without the GIL


def sha256_of(path: Path) -> str:
    """Return the hex sha256 of a file's content, whatever its size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_file(path: Path, most_bytes: int) -> str:
    """Return the hex sha256 of a regular file of at most `most_bytes`.

    Raises
    ------
    OSError
        It cannot be read, is not a regular file, or is larger.
    """
    digest = hashlib.sha256()
    with _regular_file(path, most_bytes) as (file, size):
        read = 0
        while piece := file.read(PIECE):
            digest.update(piece)
            read += len(piece)
            if read > size:
                raise OSError(errno.ESTALE, "it grows while it is read")
    return digest.hexdigest()


def read_file(path: Path, most_bytes: int) -> bytes:
    """Read a regular file of at most `most_bytes`.

    Raises
    ------
    OSError
        It cannot be read, is not a regular file, or is larger.
    """
    with _regular_file(path, most_bytes) as (file, size):
        return file.read(size)


def read_array(path: Path, most_bytes: int) -> tuple[NDArray[np.uint8], str]:
    """Read a large file into memory of its own and hash what was read.

    Returns
    -------
    content : (n,) uint8
    sha256 : str
        Hex, of `content`. A later change of the file changes neither.

    Raises
    ------
    OSError
        It cannot be read, is not a regular file, or is larger.
    """
    digest = hashlib.sha256()
    with _regular_file(path, most_bytes) as (file, size):
        content = np.empty(size, np.uint8)
        for start in range(0, size, PIECE):
            piece = content[start : start + PIECE]
            if file.readinto(piece) != len(piece):  # type: ignore[attr-defined]
                raise OSError(errno.ESTALE, "it shrinks while it is read")
            digest.update(piece.data)
    return content, digest.hexdigest()


@contextlib.contextmanager
def _regular_file(path: Path, most_bytes: int) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file without waiting for a pipe's other end; yields it with its size in bytes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - of a descriptor
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if found.st_size > most_bytes:
            raise OSError(errno.EFBIG, f"it has {found.st_size} bytes, and at most {most_bytes} are read")
        yield file, found.st_size
