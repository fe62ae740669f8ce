"""Images on disk: finding, reading, writing and fingerprinting them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from qzd_ext.bundle import sha256_of
from qzd_ext.errors import DataError
from qzd_ext.geometry import Frame
from qzd_tools.files import write_whole

__all__ = [
    "combined_digest",
    "content_hashes",
    "evenly",
    "list_images",
    "read_image",
    "shrunk",
    "write_image",
]

LONGEST_SIDE = 640
"""Pixels; larger pictures are scaled down before they become golden, to keep the bundle small."""


def list_images(directory: Path) -> list[Path]:
    """List the pictures of a directory and those below it, sorted by path. Hidden files are left out.

    Links are followed; a directory that can be reached in several ways counts once.
    Whether each is a picture, or a link that leads nowhere, is found out when it is read.

    Raises
    ------
    DataError
        The directory does not exist, holds no file, or one below it may not be read.
    """
    if not directory.is_dir():
        raise DataError(f"{directory}: no such directory", fix="name a directory with images")
    try:
        files = sorted(path for path in _walk(directory) if path.is_file() or not path.exists())
    except OSError as error:  # what cannot be seen would be left out without a word
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error
    if not files:
        raise DataError(f"{directory}: no file in it", wanted="images: JPEG, PNG, BMP, WebP or TIFF")
    return files


def _raise(error: OSError) -> None:
    raise error


def _walk(directory: Path) -> Iterator[Path]:
    seen = set()
    for at, folders, names in os.walk(directory, onerror=_raise, followlinks=True):
        real = os.path.realpath(at)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(at, name) for name in names if not name.startswith("."))


def evenly(paths: Sequence[Path], most: int) -> list[Path]:
    """Take at most `most` of the paths, in their order, evenly from all of them."""
    count = min(len(paths), most)
    return [paths[i * len(paths) // count] for i in range(count)]


def read_image(path: Path) -> Frame:
    """Read a picture.

    Returns
    -------
    (h, w, 3) uint8
        BGR; grey pictures are spread over the three channels, transparency is dropped, and the EXIF
        orientation is not applied, as COCO's annotations have it.

    Raises
    ------
    DataError
        It does not exist, or is not a picture that OpenCV can read.
    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    frame = _decoded(data) if len(data) else None
    if frame is None:
        raise DataError(
            f"{path}: not an image that can be read ({len(data)} bytes)",
            wanted="JPEG, PNG, BMP, WebP or TIFF",
            fix="remove it or put a whole one in its place; a directory of images must hold only images",
        )
    return np.asarray(frame, np.uint8)


def _decoded(data: np.typing.NDArray[np.uint8]) -> Frame | None:
    try:
        return cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)  # type: ignore[return-value]
    except cv2.error:  # a header that claims more pixels than OpenCV allows
        return None


def write_image(path: Path, frame: Frame) -> None:
    """Write a picture, (h, w, 3) uint8 BGR, in the format of its name's suffix.

    `cv2.imwrite` is not used: it ends the process where the path is not UTF-8.

    Raises
    ------
    OSError
        It cannot be written.
    """
    write_whole(path, cv2.imencode(path.suffix, frame)[1].tobytes())


def shrunk(frame: Frame, longest_side: int = LONGEST_SIDE) -> Frame:
    """Shrink a picture to at most `longest_side` pixels, (h, w, 3) uint8; return it if it is that small."""
    ratio = longest_side / max(frame.shape[:2])
    if ratio >= 1:
        return frame
    size = (max(round(frame.shape[1] * ratio), 1), max(round(frame.shape[0] * ratio), 1))
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)


def content_hashes(paths: Sequence[Path]) -> list[str]:
    """Hex sha256 of each file's content, in the order of the paths.

    Raises
    ------
    DataError
        A file cannot be read.
    """
    hashes = []
    for path in paths:
        try:
            hashes.append(sha256_of(path))
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return hashes


def combined_digest(hashes: Iterable[str]) -> str:
    """Hex sha256 over the sorted hashes: the same for the same contents in any order, under any names."""
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()
