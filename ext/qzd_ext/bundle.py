"""The bundle: a directory with an IR and everything needed to run and to judge it.

::

    NAME/bundle.toml  model.xml  model.bin  labels.txt  [priors.npy]  golden/0.png  golden/0.json ...

A bundle is written to a temporary directory beside its destination, synced, then renamed, so that it is
there whole or not at all. It is read with every hash checked. What may live here: files and hashes; what
the manifest's keys mean is in `manifest`.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from qzd_ext.detections import FloatArray
from qzd_ext.errors import BundleError
from qzd_ext.manifest import Manifest, Ssd, decode_manifest

__all__ = [
    "MANIFEST",
    "MODEL",
    "PRIORS",
    "WEIGHTS",
    "Bundle",
    "Draft",
    "create",
    "locate",
    "read",
    "sha256_of",
]

MANIFEST = "bundle.toml"
MODEL = "model.xml"
WEIGHTS = "model.bin"
LABELS = "labels.txt"
PRIORS = "priors.npy"

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A bundle that was read and found whole.

    Attributes
    ----------
    path : Path
        The directory.
    manifest : Manifest
    digest : str
        `sha256:` and the hex sha256 of bundle.toml; it names exactly what runs.
    priors : (N, 4) float32 or None
        yc xc h w in 0..1, for the head `ssd`.
    """

    path: Path
    manifest: Manifest
    digest: str
    priors: FloatArray | None

    @property
    def model(self) -> Path:
        """The IR's model.xml."""
        return self.path / MODEL

    @property
    def size(self) -> int:
        """Bytes of the IR: graph and weights."""
        return (self.path / MODEL).stat().st_size + (self.path / WEIGHTS).stat().st_size


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def locate(path: Path) -> Path:
    """The bundle that a path means: itself, or the highest of the numbered bundles in it.

    Raises
    ------
    BundleError
        There is neither a bundle nor a directory of numbered ones, or this user may not look.
    """
    with _readable(path):
        if (path / MANIFEST).is_file():
            return path
        numbered = [d for d in path.iterdir() if re.fullmatch(r"\d+", d.name)] if path.is_dir() else []
        found = [d for d in numbered if (d / MANIFEST).is_file()]
        if found:
            return max(found, key=lambda d: int(d.name))
        raise BundleError(
            f"{path}: no bundle here" if path.exists() else f"{path}: no such directory",
            wanted=f"a directory with {MANIFEST}, or one with numbered bundles (1, 2, ...)",
            fix="make one with `qzd-tools convert MODEL -o DIR`, or correct the path",
        )


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Errors of the file system as one for a person."""
    try:
        yield
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read: {error.strerror}",
            wanted="a bundle that this user may read",
            fix="move it, for example to /var/lib/qzd/models, or let the user read it and what it lies in",
        ) from error


def read(path: Path) -> Bundle:
    """Read a bundle and check every hash.

    Parameters
    ----------
    path : Path
        A bundle, or a directory of numbered ones.

    Raises
    ------
    BundleError
        It is missing, a file is missing or has another content, or the manifest is wrong.
    """
    path = locate(path)
    with _readable(path):
        text = (path / MANIFEST).read_bytes()
    manifest = decode_manifest(text, str(path / MANIFEST))
    for name in (MODEL, WEIGHTS):
        if name not in manifest.files:
            raise _damaged(path, f"{name} is not listed under [files]")
    for name, wanted in manifest.files.items():
        _check_file(path, name, wanted)
    priors = _read_priors(path) if isinstance(manifest.head, Ssd) else None
    return Bundle(path, manifest, f"sha256:{hashlib.sha256(text).hexdigest()}", priors)


def _damaged(path: Path, found: str, wanted: str | None = None) -> BundleError:
    return BundleError(
        f"{path}: {found}",
        wanted=wanted or "a bundle as it was written",
        fix="copy the bundle again from where it was made; it must not be edited by hand",
    )


def _check_file(path: Path, name: str, wanted: str) -> None:
    try:
        if not stat.S_ISREG((path / name).stat().st_mode):  # a pipe, or a device that never ends
            raise _damaged(path, f"{name} is no plain file")
        found = sha256_of(path / name)
    except OSError as error:
        raise _damaged(path, f"{name} cannot be read: {error.strerror}") from error
    if found != wanted:
        raise _damaged(path, f"{name} has sha256 {found}", f"{wanted}, as bundle.toml says")


def _read_priors(path: Path) -> FloatArray:
    if not (path / PRIORS).is_file():
        raise _damaged(path, f"the head `ssd` needs {PRIORS}, which is not there")
    try:
        with (path / PRIORS).open("rb") as file:
            priors = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # a damaged header ends in whatever NumPy's way of reading it meets
        raise _damaged(path, f"{PRIORS}: {error}", "float32 (N, 4), as NumPy writes it") from error
    if priors.dtype != np.float32 or priors.ndim != 2 or priors.shape[1] != 4:
        raise _damaged(path, f"{PRIORS} is {priors.dtype} {priors.shape}", "float32 (N, 4)")
    if not np.isfinite(priors).all():
        raise _damaged(path, f"{PRIORS} holds numbers that are not finite", "yc xc h w in 0..1")
    return np.ascontiguousarray(priors)


class Draft:
    """A bundle that is being written; see `create`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        """Write model.xml, model.bin and the rest here."""
        self.manifest: Manifest | None = None
        """Set this before the draft ends; its `files` are filled in then."""

    def _seal(self) -> None:
        if self.manifest is None:
            raise ValueError("a draft ended without its manifest")
        labels = self.manifest.labels
        lines = (labels.name(i) + "\n" for i in range(len(labels.names)))
        (self.directory / LABELS).write_text("".join(lines), encoding="utf-8")
        paths = sorted(p for p in self.directory.rglob("*") if p.is_file())
        files = {p.relative_to(self.directory).as_posix(): sha256_of(p) for p in paths}
        sealed = msgspec.structs.replace(self.manifest, files=files)
        text = msgspec.toml.encode(sealed)
        decode_manifest(text, "the manifest that was about to be written")
        (self.directory / MANIFEST).write_bytes(text)
        for p in [*paths, self.directory / MANIFEST]:
            _sync(p)
        for directory in {p.parent for p in paths} | {self.directory}:
            _sync(directory)


@contextlib.contextmanager
def create(destination: Path, *, overwrite: bool = False) -> Iterator[Draft]:
    """Write a bundle; it appears at `destination` when the block ends without an exception.

    Parameters
    ----------
    destination : Path
        Where the bundle will be; parents are made. A link is followed: what it points to is replaced.
    overwrite : bool
        Replace a bundle that is there. Anything else that is there is never replaced.

    Raises
    ------
    BundleError
        Something is there already, or the directory cannot be written.
    """
    destination = Path(os.path.realpath(destination))
    try:
        _check_destination(destination, overwrite)
        destination.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
        try:
            draft = Draft(temporary)
            yield draft
            draft._seal()
            temporary.chmod(0o755)
            _check_destination(destination, overwrite)  # what has come there while this one was written
            _put_in_place(temporary, destination)
            _sync(destination.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise BundleError(
            f"{destination}: cannot be written: {error.strerror or error}",
            fix="free some space, or choose another directory with -o",
        ) from error


def _check_destination(destination: Path, overwrite: bool) -> None:
    if not destination.exists():
        return
    is_bundle = (destination / MANIFEST).is_file()
    if is_bundle and overwrite:
        return
    if destination.is_dir() and not any(destination.iterdir()):
        return
    raise BundleError(
        f"{destination}: {'a bundle is' if is_bundle else 'something is'} there already",
        wanted="a directory that does not exist yet",
        fix="choose another one with -o" + (", or pass --overwrite" if is_bundle else ""),
    )


def _put_in_place(temporary: Path, destination: Path) -> None:
    """What was there may be left in `temporary`, which is then removed."""
    if destination.exists():
        if _exchange(temporary, destination):
            return
        old = Path(tempfile.mkdtemp(prefix=f".{destination.name}.old.", dir=destination.parent))
        destination.rename(old / "bundle")
        try:
            temporary.rename(destination)
        except OSError:
            (old / "bundle").rename(destination)
            old.rmdir()
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        temporary.rename(destination)


def _exchange(one: Path, other: Path) -> bool:
    """Let each have the other's name, in one step; False where the system or the file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except AttributeError:
        return False
    paths = (AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other))
    return bool(renameat2(*paths, RENAME_EXCHANGE) == 0)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
