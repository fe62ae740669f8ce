"""Make and read CURVE keys in files.

A key is one line of 40 characters, Z85 as libzmq writes it. NAME.key holds the secret half and has mode 0600,
NAME.pub the public half.
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
FILE_BYTES = 4096  # a key file is shorter


def write_pair(path: Path) -> Path:
    """Make a pair of keys: the secret one in `path`, the public one beside it.

    Returns
    -------
    Path
        The public key's file, with the suffix `.pub`.

    Raises
    ------
    UsageError
        One of the files is there already, or cannot be written, or the name is none for a secret key.
    """
    public, secret = zmq.curve_keypair()
    if not path.name or path.suffix == ".pub":
        raise UsageError(
            f"{path}: no name for a secret key",
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
    """No key is written over, and the secret one is never readable by others, not for a moment."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be made: {error.strerror}",
            wanted="a new file in a directory that this user may write",
            fix="choose another name, or remove the file",
        ) from error
    try:
        with os.fdopen(file, "wb") as writer:
            writer.write(key + b"\n")
    except OSError as error:
        path.unlink()
        raise UsageError(
            f"{path}: cannot be written: {error.strerror}",
            wanted="a file system with room for it",
            fix="make room, or choose another directory",
        ) from error


def read_secret(path: Path) -> bytes:
    """A secret key, 40 characters of Z85.

    Raises
    ------
    DataError
        The file is not there, is no key, or others may read it.
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
    if stat.S_IMODE(mode) & 0o077 and not _is_credential(path):
        raise DataError(
            f"{path}: others may read it, its mode is {stat.S_IMODE(mode):04o}",
            wanted="mode 0600",
            fix=f"make new keys with `qzdctl keygen`: this one is no secret any more (or chmod 600 {path})",
        )
    return _read_key(path)


def _is_credential(path: Path) -> bool:
    """Whether systemd guards it: an access list for this user alone, which stat shows as the group's mode."""
    return str(path.parent) == os.environ.get("CREDENTIALS_DIRECTORY")


def read_public(path: Path) -> bytes:
    """A public key, 40 characters of Z85.

    Raises
    ------
    DataError
        The file is not there, or is no key.
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
            f"{path}: it is no CURVE key", wanted="one line of 40 characters", fix="use `qzdctl keygen`"
        )
    return text


def _is_z85(text: bytes) -> bool:
    """Five characters may say more than the four bytes hold that they stand for."""
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
