"""One file from the network, whole and checked: streamed, resumed, retried, taken from a mirror."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from qzd_ext import __version__
from qzd_ext.errors import DataError, ResourceError
from qzd_tools.download.catalogue import RemoteFile
from qzd_tools.files import part_of

__all__ = ["PATIENT", "Patience", "checksum_of", "fetch", "is_whole"]

CHUNK = 1 << 18
MOST_BYTES = 4 << 30
"""Of a file whose size is not known."""
OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""No connection fails with these: another attempt or address would not help."""

Step = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server is waited for.

    Attributes
    ----------
    stall_seconds : float
        Without a byte, until the connection is given up.
    attempts : int
        At one address, each going on from where the one before stopped.
    pause_seconds : float
        Before the second attempt; doubled for each one after.
    """

    stall_seconds: float = 30.0
    attempts: int = 4
    pause_seconds: float = 1.0


PATIENT = Patience()


class _RefusedError(Exception):
    """An address that need not be tried again."""


class _SameOrSafer(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not from https to http."""

    def redirect_request(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any,
                         newurl: str) -> urllib.request.Request | None:  # fmt: skip
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise _RefusedError(f"it redirects from https to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Open only HTTP and HTTPS, through the proxies that the environment names."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _SameOrSafer(),
    ):
        opener.add_handler(handler)
    return opener


def checksum_of(path: Path, kind: str = "sha384") -> str:
    """`sha384:` and the hex digest of a file's content; another kind where that is asked for."""
    with path.open("rb") as file:
        return f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"


def is_whole(path: Path, file: RemoteFile) -> bool:
    """Whether a path holds the file, by its bytes and checksum."""
    return path.is_file() and _fault(path, file) is None


def _fault(path: Path, file: RemoteFile) -> str | None:
    size = path.stat().st_size
    if file.bytes and size != file.bytes:
        return f"{size} bytes came, {file.bytes} were wanted"
    if file.checksum:
        found = checksum_of(path, file.checksum.partition(":")[0])
        if found != file.checksum:
            return f"its checksum is {found}, {file.checksum} was wanted"
    return None


def fetch(
    file: RemoteFile,
    destination: Path,
    addresses: tuple[str, ...] | None = None,
    patience: Patience = PATIENT,
    step: Step = lambda _: None,
) -> None:
    """Bring a file to `destination`; it appears there when it is whole and its checksum is right.

    Until then it is `.NAME.part` beside it, which a later call goes on with if the checksum is known.

    Parameters
    ----------
    file : RemoteFile
    destination : Path
        The directory must be there.
    addresses : tuple of str, optional
        Instead of the file's own, in the order in which they are tried.
    patience : Patience
    step : callable
        Called with the number of bytes that are there, whenever it changes.

    Raises
    ------
    DataError
        No address gave the file; the message says what each answered.
    ResourceError
        The disk has no room for it.
    """
    part = part_of(destination)
    _check_room(file, part)
    faults = []
    for address in addresses if addresses is not None else file.addresses:
        fault = _from_address(address, file, part, patience, step)
        if fault is None:
            part.replace(destination)
            return
        faults.append(f"{address}: {fault}")
    goes_on = ": it goes on where it stopped" if file.checksum else ""
    raise DataError(
        f"{file.name} could not be downloaded:\n    " + "\n    ".join(faults),
        wanted=f"{file.bytes or 'some'} bytes" + (f" with {file.checksum}" if file.checksum else ""),
        fix=f"try again{goes_on}; or name a --mirror, or a directory with --from",
    )


def _check_room(file: RemoteFile, part: Path) -> None:
    there = part.stat().st_size if part.exists() else 0
    free = shutil.disk_usage(part.parent).free
    if file.bytes - there > free:
        raise ResourceError(
            f"{part.parent}: {free / 1e6:.0f} MB are free",
            wanted=f"{file.bytes / 1e6:.0f} MB for {file.name}",
            fix="free some space, or choose another directory with -o",
        )


def _from_address(address: str, file: RemoteFile, part: Path, patience: Patience, step: Step) -> str | None:
    """Why the address did not give the file; None when it is there, whole and checked."""
    if not file.checksum:  # nothing would tell that it was put together of two files
        part.unlink(missing_ok=True)
    fault = "no attempt was made"
    for attempt in range(patience.attempts):
        if attempt:
            time.sleep(patience.pause_seconds * 2 ** (attempt - 1))
        try:
            _stream(address, file, part, patience.stall_seconds, step)
        except _RefusedError as error:
            return str(error)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, OSError) and error.errno in OF_THE_DISK:
                raise ResourceError(
                    f"{part}: cannot be written: {error.strerror}",
                    fix="free some space there, or choose another directory with -o",
                ) from error
            fault = _reason(error, patience)
            continue
        found = _fault(part, file)
        if found is None:
            return None
        fault = found
        if not file.bytes or part.stat().st_size >= file.bytes:
            part.unlink()  # wrong, and no more bytes would mend it
    return fault


def _reason(error: Exception, patience: Patience) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"nothing came for {patience.stall_seconds:g} seconds"
    return str(cause) or type(cause).__name__


def _stream(address: str, file: RemoteFile, part: Path, stall_seconds: float, step: Step) -> None:
    """Append what is missing to `part`, and put it on the disk."""
    there = part.stat().st_size if part.exists() else 0
    if file.bytes and there >= file.bytes:
        return
    headers = {"User-Agent": f"qzd-tools/{__version__}", "Accept-Encoding": "identity"}
    if there:
        headers["Range"] = f"bytes={there}-"
    with _response(address, headers, stall_seconds, part) as response:
        start = _start(response, there)
        limit = file.bytes or MOST_BYTES
        length = response.headers.get("Content-Length")
        wanted = None if length is None else start + int(length)
        if file.bytes and wanted is not None and wanted != file.bytes:
            raise _RefusedError(f"it has {wanted} bytes, {file.bytes} were wanted")
        with part.open("r+b" if start else "wb") as out:
            out.seek(start)
            for got in _copy(response, out, start, limit):
                step(got)
            out.flush()
            os.fsync(out.fileno())
    if wanted is not None and part.stat().st_size < wanted:
        raise OSError(f"the connection ended after {part.stat().st_size} of {wanted} bytes")


@contextlib.contextmanager
def _response(address: str, headers: dict[str, str], seconds: float, part: Path) -> Iterator[Any]:
    request = urllib.request.Request(address, headers=headers)  # noqa: S310 - the opener knows only http
    try:
        response = _opener().open(request, timeout=seconds)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # what is there is longer than what the server has
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code not in (408, 425, 429):
                raise _RefusedError(f"HTTP {error.code} {error.reason}") from error
            raise OSError(f"HTTP {error.code} {error.reason}") from error
    with response:
        yield response


def _start(response: Any, there: int) -> int:
    """Where the response's bytes belong: a server may ignore the range and begin at 0."""
    if response.status != 206:
        return 0
    match = re.fullmatch(r"bytes (\d+)-\d*/(?:\d+|\*)", response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != there:
        raise _RefusedError(f"asked for bytes from {there}, it sent {response.headers.get('Content-Range')}")
    return there


def _copy(response: Any, out: Any, got: int, limit: int) -> Iterator[int]:
    while chunk := response.read1(CHUNK):
        got += len(chunk)
        if got > limit:
            out.truncate(0)
            raise _RefusedError(f"more than {limit} bytes came")
        out.write(chunk)
        yield got
