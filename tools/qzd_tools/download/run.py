"""A model of the catalogue into a directory: every file fetched or copied, checked, unpacked.

The directory appears under its name when all of it is there.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct

from qzd_ext.errors import DataError, UsageError
from qzd_tools.download.archives import unpack
from qzd_tools.download.catalogue import Entry, RemoteFile
from qzd_tools.download.http import PATIENT, Patience, checksum_of, fetch, is_whole
from qzd_tools.files import part_of
from qzd_tools.progress import byte_progress

__all__ = ["Downloaded", "Origin", "download", "downloaded"]

RECORD = "download.json"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where files are taken from, other than the catalogue's addresses.

    Attributes
    ----------
    mirrors : tuple of str
        Tried first: `MIRROR/MODEL/FILE`.
    directory : Path or None
        Instead of the network: `DIRECTORY/MODEL/FILE` or `DIRECTORY/FILE`.
    unverified : bool
        Files whose checksum is not known are accepted.
    """

    mirrors: tuple[str, ...] = ()
    directory: Path | None = None
    unverified: bool = False


class Downloaded(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`download.json`: what a model's directory holds."""

    name: str
    verified: bool
    """Every file that was fetched had a known checksum."""
    files: dict[str, str]
    """Checksum by path inside the directory."""
    fetched: dict[str, str]
    """Checksum that the catalogue had for each file of its own; empty where it knows none."""
    model: tuple[str, ...]
    """What convert is given."""

    def paths(self, directory: Path) -> list[Path]:
        """Return the files that convert is given."""
        return [directory / path for path in self.model]


def downloaded(name: str, entry: Entry, directory: Path) -> Downloaded | None:
    """Find a model in a directory, with every checksum verified; None if that is not all of it."""
    try:
        record = msgspec.json.decode((directory / RECORD).read_bytes(), type=Downloaded)
        if (record.name, record.fetched) != (name, _checksums(entry)):
            return None
        whole = all(checksum_of(directory / path) == wanted for path, wanted in record.files.items())
    except (OSError, ValueError):
        return None
    return record if whole else None


def download(
    name: str, entry: Entry, directory: Path, origin: Origin = Origin(), patience: Patience = PATIENT
) -> Downloaded:
    """Bring a model into a directory; does nothing where it is there already.

    Parameters
    ----------
    name : str
        In the catalogue.
    entry : Entry
    directory : Path
        It appears when everything is in it. Until then `.NAME.partial` beside it holds what came, and a
        later call goes on with that.
    origin : Origin
    patience : Patience

    Raises
    ------
    UsageError
        Something else is at `directory`, or a file has no known checksum and `unverified` is not set.
    DataError
        A file could not be had, or is not what it should be.
    """
    there = downloaded(name, entry, directory)
    if there is not None:
        return there
    if directory.exists():
        raise UsageError(
            f"{directory}: something else is there, an incomplete download of {name}, or one of other files",
            wanted="a directory that does not exist yet",
            fix="remove it, or choose another one with -o",
        )
    _check_verifiable(name, entry, origin)
    partial = directory.with_name(f".{directory.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    for file in entry.files:
        if not (file.checksum and is_whole(partial / file.name, file)):
            _bring(name, file, partial / file.name, origin, patience)
    for file in entry.files:
        if file.unpack:
            unpack(partial / file.name, partial)
    record = _sealed(name, entry, partial)
    partial.rename(directory)
    return record


def _checksums(entry: Entry) -> dict[str, str]:
    return {file.name: file.checksum for file in entry.files}


def _check_verifiable(name: str, entry: Entry, origin: Origin) -> None:
    unknown = [f.name for f in entry.files if not f.checksum]
    if unknown and not origin.unverified:
        raise UsageError(
            f"{name}: the checksum of {', '.join(unknown)} is not known, and a wrong file not noticed",
            fix="accept that with --unverified; the checksum of what comes is then recorded",
        )


def _bring(name: str, file: RemoteFile, target: Path, origin: Origin, patience: Patience) -> None:
    if origin.directory is not None:
        _copy(name, file, target, origin.directory)
        return
    mirrored = [f"{mirror.rstrip('/')}/{name}/{file.name}" for mirror in origin.mirrors]
    with byte_progress(file.name, file.bytes or None) as step:
        fetch(file, target, (*mirrored, *file.addresses), patience, step)


def _copy(name: str, file: RemoteFile, target: Path, directory: Path) -> None:
    candidates = [directory / name / file.name, directory / file.name]
    source = next((c for c in candidates if c.is_file()), None)
    if source is None or not is_whole(source, file):
        found = "not there" if source is None else f"{source} has another content: {checksum_of(source)}"
        raise DataError(
            f"{file.name}: {found}",
            wanted=f"{candidates[0]} or {candidates[1]}"
            + (f" with {file.checksum}" if file.checksum else ""),
            fix=f"put it there; it comes from {file.addresses[0]}",
        )
    part = part_of(target)
    shutil.copyfile(source, part)
    part.replace(target)


def _sealed(name: str, entry: Entry, partial: Path) -> Downloaded:
    """Record what is there and put it on the disk. Archives go last: until then a later call wants them."""
    archives = [partial / file.name for file in entry.files if file.unpack]
    made = sorted(p for p in partial.rglob("*") if p.is_file() and p not in (partial / RECORD, *archives))
    record = Downloaded(
        name=name,
        verified=entry.verifiable,
        files={p.relative_to(partial).as_posix(): checksum_of(p) for p in made},
        fetched=_checksums(entry),
        model=entry.model,
    )
    missing = [path for path in entry.model if not (partial / path).exists()]
    if missing:
        raise DataError(
            f"{name}: {', '.join(missing)} is not among what was downloaded: {', '.join(record.files)}",
            fix="correct `model` in the catalogue",
        )
    (partial / RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
    for archive in archives:
        archive.unlink()
    os.sync()
    return record
