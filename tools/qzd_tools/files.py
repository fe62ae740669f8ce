"""Files that are read or refused by name, and files that are there whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path

from qzd_ext.errors import DataError

__all__ = ["part_of", "reading", "write_whole"]


@contextlib.contextmanager
def reading(path: Path | Traversable, *, wanted: str, fix: str) -> Iterator[None]:
    """Around reading and decoding a file that a person wrote or named.

    Raises
    ------
    DataError
        It cannot be read, is not UTF-8, or is not what is wanted; the message names the file.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also what is not UTF-8, or nested beyond all reading
        raise DataError(f"{path}: {error}", wanted=wanted, fix=fix) from error


def part_of(path: Path) -> Path:
    """Where a file is until it is whole."""
    return path.with_name(f".{path.name}.part")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or as it was.

    Raises
    ------
    OSError
        It cannot be written; the error names the file, which a full disk does not.
    """
    temporary = part_of(path)
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
