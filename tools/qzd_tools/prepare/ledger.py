"""Which steps of a long work are done, so that it goes on after a crash where it stopped.

A step is done when its inputs are those that are on record and its outputs still have the digests that are
on record.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from qzd_ext import bundle as bundles
from qzd_ext.errors import BundleError, UsageError
from qzd_tools.files import write_whole

__all__ = ["Ledger", "open_ledger"]

RECORD = "prepare.json"
LOCK = ".lock"


class _Done(Struct, frozen=True):
    """One step that was done."""

    inputs: dict[str, str]
    outputs: dict[str, str]
    """Digest by path inside the directory."""
    remark: str = ""


class Ledger:
    """The record of a directory; see `open_ledger`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.fresh: dict[str, bool] = {}
        """By step, in order: whether it was done now; False for what was recognised."""
        self._done = _read(directory / RECORD)

    def is_done(self, name: str, inputs: Mapping[str, str]) -> bool:
        """Whether a step was done with these inputs, and what it made is still there, unchanged."""
        done = self._done.get(name)
        if done is None or done.inputs != dict(inputs):
            return False
        try:
            return all(_digest(self.directory / path) == digest for path, digest in done.outputs.items())
        except (OSError, BundleError):
            return False

    def step(
        self, name: str, inputs: Mapping[str, str], outputs: Sequence[Path], work: Callable[[], object]
    ) -> str:
        """Do a step, unless it is done.

        Parameters
        ----------
        name : str
        inputs : mapping of str to str
            Everything that decides what comes out, as digests and settings.
        outputs : sequence of Path
            Bundles and files inside the directory that are there afterwards. Those that the work did not
            make are left out.
        work : callable
            May give a remark to remember, a string.

        Returns
        -------
        str
            The remark, of now or of then.
        """
        self.fresh[name] = not self.is_done(name, inputs)
        if self.fresh[name]:
            outcome = work()
            remark = outcome if isinstance(outcome, str) else ""
            made = {p.relative_to(self.directory).as_posix(): _digest(p) for p in outputs if p.exists()}
            self._done[name] = _Done(dict(inputs), made, remark)
            text = msgspec.json.format(msgspec.json.encode(self._done), indent=1)
            write_whole(self.directory / RECORD, text)
        return self._done[name].remark


@contextlib.contextmanager
def open_ledger(directory: Path) -> Iterator[Ledger]:
    """Open a directory's ledger, while no other process has it.

    Raises
    ------
    UsageError
        Another process is at work there, or the directory holds something else.
    """
    if directory.is_dir() and any(directory.iterdir()) and not (directory / LOCK).exists():
        raise UsageError(
            f"{directory}: something else is there already",
            wanted="a directory that does not exist yet, or one of an earlier run",
            fix="choose another one with -o",
        )
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"{directory}: another process is at work there", fix="wait for it, or choose another -o"
            ) from error
        yield Ledger(directory)


def _read(path: Path) -> dict[str, _Done]:
    """Return what is on record; nothing if it cannot be read, since then nothing is certain."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, _Done])
    except (OSError, ValueError):
        return {}


def _digest(path: Path) -> str:
    """Of a bundle, with every hash of its files checked; of a file, its content's."""
    if path.is_dir():
        return bundles.read(path).digest
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
