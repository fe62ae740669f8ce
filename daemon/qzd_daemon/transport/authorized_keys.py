"""Read the directory of public keys that may connect, again whenever it changes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from zmq.utils import z85

from qzd_client.curve import read_public, unreadable
from qzd_ext.errors import DataError

__all__ = ["AuthorizedKeys"]


class AuthorizedKeys:
    """The public keys in a directory, `*.pub`, as they are now: it is read again when it has changed.

    Parameters
    ----------
    directory : Path

    Attributes
    ----------
    problems : list of str
        Files in it that do not hold a key, or why it cannot be read.

    Raises
    ------
    DataError
        There is no such directory, or it cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._state: list[tuple[str, int, int]] | str = []
        self._names: dict[bytes, str] = {}
        self.problems: list[str] = []
        if not directory.is_dir():
            raise DataError(
                f"{directory}: there is no such directory",
                wanted="the directory of the public keys that may connect",
                fix="make it, and put each client's .pub file there",
            )
        if isinstance(state := self._look(), str):
            raise DataError(state, fix="let the user that runs qzd read it")

    def name(self, key: bytes) -> str | None:
        """Return the name of the key's file, without `.pub`; None if the key is not authorised.

        Parameters
        ----------
        key : bytes
            32 bytes, as ZAP hands them over.
        """
        self.read()
        return self._names.get(key)

    def read(self) -> bool:
        """Read the directory if it has changed; return whether a key was removed."""
        state = self._look()
        if state == self._state:
            return False
        self._state, before = state, self._names
        self._names, self.problems = {}, [state] if isinstance(state, str) else []
        for name, _, _ in state if isinstance(state, list) else ():
            try:
                key = z85.decode(_read_authorised(self._directory / name))
                self._names[key] = _printable(name.removesuffix(".pub"))
            except DataError as error:
                self.problems.append(_printable(str(error)))
        return not before.keys() <= self._names.keys()

    def _look(self) -> list[tuple[str, int, int]] | str:
        """Return name, time of change and size of each key file, or why the directory cannot be read."""
        try:
            with os.scandir(self._directory) as entries:
                return sorted((e.name, *_change(e)) for e in entries if e.name.endswith(".pub"))
        except OSError as error:
            return f"{self._directory}: cannot be read: {error.strerror}"


def _printable(text: str) -> str:
    """Return a text as valid UTF-8, which logs and ZAP need; the name of a file may hold other bytes."""
    return text.encode("utf-8", "replace").decode()


def _change(entry: os.DirEntry[str]) -> tuple[int, int]:
    """Return when a file changed, and its size; zeros for a broken link, so that other keys stay valid."""
    try:
        state = entry.stat()
    except OSError:
        return 0, 0
    return state.st_ctime_ns, state.st_size


def _read_authorised(path: Path) -> bytes:
    """Read a key from a regular file; a pipe to which nobody writes would block the thread that reads it."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(mode):
        raise DataError(f"{path}: not a regular file", wanted="a public key's file", fix="remove it")
    return read_public(path)
