"""Archives into a directory, safely: nothing outside it, no links, no devices, a limit on what comes out.

`tarfile`'s filter "data" is not used: it makes links that stay inside, takes the slash off absolute names
instead of refusing them, has no limit on what it writes, and there is none for zip. Here one check serves
both, before anything is written.
"""

from __future__ import annotations

import contextlib
import errno
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from qzd_ext.errors import DataError, ResourceError

__all__ = ["unpack"]

MOST_BYTES = 8 << 30
"""That an archive may unpack to."""
MOST_FILES = 100_000

FAULTS = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError),
    RuntimeError,  # a zip with a password, or packed in a way that Python does not know
)
"""What reading a damaged or strange archive raises."""


@dataclass(frozen=True, slots=True)
class _Member:
    """A file of an archive."""

    path: PurePosixPath
    size: int
    handle: tarfile.TarInfo | zipfile.ZipInfo


def unpack(archive: Path, directory: Path, most_bytes: int = MOST_BYTES) -> list[Path]:
    """Unpack an archive's files.

    Parameters
    ----------
    archive : Path
        tar, plain or compressed, or zip.
    directory : Path
        It is made; what is there already is written over.
    most_bytes : int
        Limit of all files together.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    DataError
        It is not an archive, is damaged, or holds what is refused; the message names the member.
    ResourceError
        The disk has no room for it.
    """
    try:
        with _opened(archive) as source:
            members = _checked(source, archive, most_bytes)
            return [_write(source, member, directory) for member in members]
    except FAULTS as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"{directory}: {error.strerror}",
                wanted=f"room for what {archive.name} holds",
                fix="free some space, or choose another directory with -o",
            ) from error
        raise DataError(
            f"{archive}: cannot be unpacked: {error}",
            wanted="a whole tar or zip archive",
            fix="download it again",
        ) from error


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile | zipfile.ZipFile]:
    if zipfile.is_zipfile(archive) and not tarfile.is_tarfile(archive):  # a zip may end a plain tar
        with zipfile.ZipFile(archive) as zipped:
            yield zipped
    else:
        with tarfile.open(archive) as tarred:
            yield tarred


def _checked(source: tarfile.TarFile | zipfile.ZipFile, archive: Path, most_bytes: int) -> list[_Member]:
    listed = _zip_members(source) if isinstance(source, zipfile.ZipFile) else _tar_members(source)
    members: list[_Member] = []
    size = 0
    for name, kind, member in listed:
        path = PurePosixPath(name)
        if kind == "other":
            raise _refused(archive, f"{name!r} is a link or a device")
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            raise _refused(archive, f"{name!r} leads out of the directory")
        if kind == "file":
            members.append(member)
            size += member.size
        if size > most_bytes or len(members) > MOST_FILES:
            raise _refused(archive, f"it unpacks to over {most_bytes / 1e6:g} MB or {MOST_FILES} files")
    return members


def _refused(archive: Path, what: str) -> DataError:
    wanted = "plain files and directories, inside one directory"
    return DataError(f"{archive}: refused: {what}", wanted=wanted)


def _tar_members(source: tarfile.TarFile) -> Iterator[tuple[str, str, _Member]]:
    for info in source:
        kind = "file" if info.isreg() else "directory" if info.isdir() else "other"
        yield info.name, kind, _Member(PurePosixPath(info.name), info.size, info)
    assert source.fileobj is not None
    while source.fileobj.read(1 << 20):  # to the end, where a compressed stream keeps its own checksum
        pass


def _zip_members(source: zipfile.ZipFile) -> Iterator[tuple[str, str, _Member]]:
    for info in source.infolist():
        mode = stat.S_IFMT(info.external_attr >> 16)
        plain = mode in (0, stat.S_IFREG, stat.S_IFDIR)
        kind = "other" if not plain else "directory" if info.is_dir() else "file"
        yield info.filename, kind, _Member(PurePosixPath(info.filename), info.file_size, info)


def _write(source: tarfile.TarFile | zipfile.ZipFile, member: _Member, directory: Path) -> Path:
    target = directory / member.path
    target.parent.mkdir(parents=True, exist_ok=True)
    with _reader(source, member) as read, target.open("wb") as out:
        shutil.copyfileobj(read, out)
    if target.stat().st_size != member.size:
        raise EOFError(f"{member.path} should have {member.size} bytes")
    return target


def _reader(source: tarfile.TarFile | zipfile.ZipFile, member: _Member) -> IO[bytes]:
    if isinstance(source, zipfile.ZipFile):
        assert isinstance(member.handle, zipfile.ZipInfo)
        return source.open(member.handle)
    assert isinstance(member.handle, tarfile.TarInfo)
    stream = source.extractfile(member.handle)
    assert stream is not None
    return stream
