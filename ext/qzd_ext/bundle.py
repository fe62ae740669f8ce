"""The bundle: a directory with an IR and everything needed to run and to judge it.

::

    NAME/bundle.toml  model.xml  model.bin  labels.txt  [priors.npy]  golden/0.png  golden/0.json ...

A bundle is written to a temporary directory beside its destination, synced, then renamed, so that it is
there whole or not at all. It is read within limits and with every hash checked. What is compiled comes from
the memory that was hashed, so a file that changes later changes nothing. `manifest` says what the keys mean.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from qzd_ext.detections import FloatArray
from qzd_ext.errors import BundleError
from qzd_ext.files import hash_file, read_array, read_file, sha256_of
from qzd_ext.manifest import MAX_MANIFEST_BYTES, Manifest, Ssd, decode_manifest
from qzd_ext.memory import usable_memory

__all__ = [
    "MANIFEST",
    "MODEL",
    "PRIORS",
    "WEIGHTS",
    "Bundle",
    "Draft",
    "Ir",
    "create",
    "locate",
    "numbered",
    "read",
    "read_ir",
    "sha256_of",
    "unsealed",
]

MANIFEST = "bundle.toml"
MODEL = "model.xml"
WEIGHTS = "model.bin"
LABELS = "labels.txt"
PRIORS = "priors.npy"

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux


MAX_WEIGHTS_BYTES = 4 << 30  # the largest published detectors in float32 have a tenth
MAX_FILE_BYTES = 64 << 20  # of every other file
MEMORY_SHARE = 2  # model.bin may fill half of the memory: compiling needs the rest


@dataclass(frozen=True, slots=True, eq=False)
class Ir:
    """A model as OpenVINO reads it, in memory.

    Attributes
    ----------
    graph : bytes
        The content of model.xml.
    weights : (n,) uint8
        The content of model.bin.
    """

    graph: bytes
    weights: NDArray[np.uint8]


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
    golden : mapping of str to bytes
        The content of each file of golden/, by its path inside the bundle.
    signer : str
        The name of the key that has signed it; empty if signatures were not asked for.
    """

    path: Path
    manifest: Manifest
    digest: str
    priors: FloatArray | None
    golden: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    signer: str = ""

    @property
    def model(self) -> Path:
        """The IR's model.xml."""
        return self.path / MODEL

    @property
    def size(self) -> int:
        """Bytes of the IR: graph and weights."""
        return (self.path / MODEL).stat().st_size + (self.path / WEIGHTS).stat().st_size


def locate(path: Path) -> Path:
    """Return the bundle that a path means: itself, or the highest of the numbered bundles in it.

    Raises
    ------
    BundleError
        There is neither a bundle nor a directory of numbered ones, or this user may not look.
    """
    with _readable(path):
        if (path / MANIFEST).is_file():
            return path
        found = numbered(path) if path.is_dir() else []
        if found:
            return found[0]
        raise BundleError(
            f"{path}: no bundle here" if path.exists() else f"{path}: no such directory",
            wanted=f"a directory with {MANIFEST}, or one with numbered bundles (1, 2, ...)",
            fix="make one with `qzd-tools convert MODEL -o DIR`, or correct the path",
        )


def numbered(path: Path) -> list[Path]:
    """List the numbered bundles in a directory, the highest first; empty if it is none."""
    try:
        names = [d for d in path.iterdir() if re.fullmatch(r"\d+", d.name) and (d / MANIFEST).is_file()]
    except NotADirectoryError:
        return []
    return sorted(names, key=lambda d: int(d.name), reverse=True)


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


def read(path: Path, *, check_ir: bool = True, keys: Path | None = None) -> Bundle:
    """Read a bundle and check every hash.

    Parameters
    ----------
    path : Path
        A bundle, or a directory of numbered ones.
    check_ir : bool
        Hash model.xml and model.bin too. A caller that goes on to `read_ir`, which hashes what it reads,
        saves a pass over them.
    keys : Path, optional
        A directory of minisign's public keys: the bundle must be signed with one of them. This is checked
        before anything is parsed.

    Raises
    ------
    DataError
        The keys cannot be read.
    BundleError
        It is missing or not signed, the manifest is wrong, or a file is missing, too large or has another
        content.
    """
    path = locate(path)
    with _readable_file(path, MANIFEST):
        text = read_file(path / MANIFEST, MAX_MANIFEST_BYTES)
    signer = _check_signature(path, text, keys) if keys is not None else ""
    manifest = decode_manifest(text, str(path / MANIFEST))
    for name in (MODEL, WEIGHTS):
        if name not in manifest.files:
            raise _damaged(path, f"{name} is not listed under [files]")
    kept = {}
    for name, wanted in manifest.files.items():
        if name == PRIORS or name.startswith("golden/"):
            kept[name] = _read_checked(path, name, wanted)
        elif check_ir or name not in (MODEL, WEIGHTS):
            _check_file(path, name, wanted)
    priors = kept.pop(PRIORS, None)
    parsed = _parse_priors(path, priors) if isinstance(manifest.head, Ssd) else None
    return Bundle(path, manifest, f"sha256:{hashlib.sha256(text).hexdigest()}", parsed, kept, signer)


def unsealed(directory: Path, manifest: Manifest, priors: FloatArray | None = None) -> Bundle:
    """Describe a bundle that is still being made, so that its model can run before bundle.toml exists.

    Parameters
    ----------
    directory : Path
        Holds model.xml and model.bin.
    manifest : Manifest
        Its `files` are replaced by the hashes of these two files.
    priors : (N, 4) float32, optional
        For the head `ssd`.
    """
    files = {name: sha256_of(directory / name) for name in (MODEL, WEIGHTS)}
    return Bundle(directory, msgspec.structs.replace(manifest, files=files), "", priors)


def read_ir(bundle: Bundle) -> Ir:
    """Read a bundle's IR into memory and check it against the manifest.

    Raises
    ------
    BundleError
        A file is missing, has another content than the manifest says, or is too large for this machine.
    """
    graph = _read_checked(bundle.path, MODEL, bundle.manifest.files[MODEL])
    with _readable_file(bundle.path, WEIGHTS):
        most = min(MAX_WEIGHTS_BYTES, usable_memory() // MEMORY_SHARE)
        weights, digest = read_array(bundle.path / WEIGHTS, most)
    _check_hash(bundle.path, WEIGHTS, digest, bundle.manifest.files[WEIGHTS])
    return Ir(graph, weights)


def _damaged(path: Path, found: str, wanted: str | None = None) -> BundleError:
    return BundleError(
        f"{path}: {found}",
        wanted=wanted or "a bundle as it was written",
        fix="copy the bundle again from where it was made; it must not be edited by hand",
    )


@contextlib.contextmanager
def _readable_file(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _damaged(path, f"{name} cannot be read: {error.strerror}") from error


def _check_signature(path: Path, text: bytes, keys: Path) -> str:
    from qzd_ext import signature  # libsodium is loaded only if signatures are asked for

    try:
        content = read_file(path / signature.SIGNATURE, signature.MAX_BYTES)
    except OSError as error:
        raise BundleError(
            f"{path}: not signed: {signature.SIGNATURE} cannot be read: {error.strerror}",
            wanted="a bundle that is signed with a key of [security] bundle_keys",
            fix="sign it with `qzd-tools sign BUNDLE --key FILE`",
        ) from error
    return signature.verify(text, content, signature.read_keys(keys), str(path))


def _check_file(path: Path, name: str, wanted: str) -> None:
    with _readable_file(path, name):
        found = hash_file(path / name, MAX_WEIGHTS_BYTES if name == WEIGHTS else MAX_FILE_BYTES)
    _check_hash(path, name, found, wanted)


def _read_checked(path: Path, name: str, wanted: str) -> bytes:
    with _readable_file(path, name):
        content = read_file(path / name, MAX_FILE_BYTES)
    _check_hash(path, name, hashlib.sha256(content).hexdigest(), wanted)
    return content


def _check_hash(path: Path, name: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise _damaged(path, f"{name} has sha256 {found}", f"{wanted}, as bundle.toml says")


def _parse_priors(path: Path, content: bytes | None) -> FloatArray:
    if content is None:
        raise _damaged(path, f"the head `ssd` needs {PRIORS}, which is not listed under [files]")
    try:
        priors = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # a damaged header raises whatever NumPy's reader meets
        raise _damaged(path, f"{PRIORS}: {error}", "float32 (N, 4), as NumPy writes it") from error
    if priors.dtype != np.float32 or priors.ndim != 2 or priors.shape[1] != 4:
        raise _damaged(path, f"{PRIORS} is {priors.dtype} {priors.shape}", "float32 (N, 4)")
    if not np.isfinite(priors).all():
        raise _damaged(path, f"{PRIORS} has numbers that are not finite", "yc xc h w in 0..1")
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
    """Put it in its place; what it replaces may be left in `temporary`, which is then removed."""
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
