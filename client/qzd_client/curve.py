"""Make and read CURVE keys in files.

A key is one line of 40 characters, Z85 as libzmq writes it. NAME.key holds the secret half and has mode 0600;
NAME.pub holds the public half.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from pathlib import Path

import zmq
from zmq.utils import z85

from qzd_client.errors import DataError, UsageError

__all__ = ["read_public", "read_secret", "unreadable", "write_pair"]

KEY = re.compile(rb"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
KEY_BYTES = 32
_HAS_MODES = os.name == "posix"

FILE_BYTES = 4096  # read no more than this of a file


def write_pair(path: Path) -> Path:
    """Make a pair of keys: the secret key in `path`, the public key beside it.

    Returns
    -------
    Path
        The public key's file, with the suffix `.pub`.

    Raises
    ------
    UsageError
        One of the files exists already or cannot be written, or `path` ends in `.pub`.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as directory:
    ...     public = write_pair(Path(directory, "gate.key"))
    ...     public.name, len(read_public(public)), len(read_secret(Path(directory, "gate.key")))
    ('gate.pub', 40, 40)
    """
    public, secret = zmq.curve_keypair()
    if not path.name or path.suffix == ".pub":
        raise UsageError(
            f"{path}: not a name for a secret key",
            wanted="NAME.key; NAME.pub is written beside it",
            fix="choose another name",
        )
    public_path = path.with_suffix(".pub")
    _write_new(path, secret, 0o600)
    try:
        _write_new(public_path, public, 0o644)
    except UsageError:
        path.unlink()
        raise
    return public_path


def _write_new(path: Path, key: bytes, mode: int) -> None:
    """Write a new file with this mode from the start; never overwrite a key."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be created: {error.strerror}",
            wanted="a new file in a directory that this user may write to",
            fix="choose another name, or remove the file",
        ) from error
    try:
        with os.fdopen(file, "wb") as writer:
            writer.write(key + b"\n")
    except OSError as error:
        path.unlink()
        raise UsageError(
            f"{path}: cannot be written: {error.strerror}",
            wanted="a file system with free space",
            fix="free some space, or choose another directory",
        ) from error


def read_secret(path: Path) -> bytes:
    """Read a secret key, 40 characters of Z85.

    Raises
    ------
    DataError
        The file does not exist or is not a key, or other users may read it.
    """
    if path.suffix == ".pub":
        raise DataError(
            f"{path}: it is the public half of a pair",
            wanted="the secret half, NAME.key",
            fix=f"use {path.with_suffix('.key')}",
        )
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise unreadable(path, error) from error
    if _HAS_MODES and stat.S_IMODE(mode) & 0o077 and not _is_credential(path):
        raise DataError(
            f"{path}: other users may read this secret key; its mode is {stat.S_IMODE(mode):04o}",
            wanted="mode 0600",
            fix=f"make new keys with `qzdctl keygen`: this one is no longer secret (or chmod 600 {path})",
        )
    return _read_key(path)


def _is_credential(path: Path) -> bool:
    """Whether systemd guards it by an access list for one user, which stat shows as the group's mode."""
    return str(path.parent) == os.environ.get("CREDENTIALS_DIRECTORY")


def read_public(path: Path) -> bytes:
    """Read a public key, 40 characters of Z85.

    Raises
    ------
    DataError
        The file does not exist, or is not a key.
    """
    return _read_key(path)


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES).strip()
    except OSError as error:
        raise unreadable(path, error) from error
    if not KEY.fullmatch(text) or not _is_z85(text):
        raise DataError(
            f"{path}: not a CURVE key",
            wanted="one line of 40 characters",
            fix="make one with `qzdctl keygen`",
        )
    return text


def _is_z85(text: bytes) -> bool:
    """Whether it decodes; five characters of Z85 can exceed what four bytes hold."""
    try:
        return len(z85.decode(text)) == KEY_BYTES
    except struct.error:
        return False


def unreadable(path: Path, error: OSError) -> DataError:
    """Return the error that says why a key file cannot be read."""
    return DataError(
        f"{path}: cannot be read: {error.strerror}",
        wanted="a key file",
        fix="make one with `qzdctl keygen`, or correct the path",
    )
