"""Cameras that give one picture at a time: a JPEG or PNG at a URL, fetched at an interval."""

from __future__ import annotations

import http.client
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

from qzd_daemon.config.schema import StreamConfig
from qzd_daemon.sources.cameras import Pause
from qzd_daemon.sources.credentials import Credentials
from qzd_daemon.sources.frames import SourceFrame, SourceState
from qzd_daemon.sources.reasons import describe
from qzd_daemon.sources.stills import read_still
from qzd_ext.errors import QzdError, SourceError

__all__ = ["SnapshotCamera"]

MAX_BYTES = 32 * 2**20


class SnapshotCamera:
    """A URL that answers with a picture.

    Parameters
    ----------
    config : StreamConfig
        Its `interval_s` lies between the beginnings of two requests; `timeout_s` holds for each.
    """

    live = True
    end = ""
    complete = True

    def __init__(self, config: StreamConfig) -> None:
        self._config = config
        self._pause = Pause(random.Random())  # noqa: S311 - not a secret

    def frames(self, stopping: threading.Event) -> Iterator[SourceFrame | SourceState]:
        """Deliver frames and states until it is told to stop."""
        assert self._config.interval_s is not None
        yield SourceState("connecting", self._config.address)
        running, due = False, time.monotonic()
        while not stopping.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._config.interval_s, time.monotonic())
            try:
                credentials = Credentials(self._config)
                content = _fetch(credentials, self._config.timeout_s)
            except SourceError as error:
                reason = error.found
            except (OSError, http.client.HTTPException) as error:
                reason = credentials.redact(self._describe(error))
            else:
                if not running:
                    yield SourceState("running")
                running = True
                self._pause.reset()
                yield _decode(content)
                continue
            running = False
            seconds = self._pause.next()
            due = time.monotonic() + seconds
            yield SourceState(
                "reconnecting", f"{self._config.address}: {reason}; next try in {seconds:.1f} s"
            )

    def close(self) -> None:
        """Do nothing: no connection stays open between pictures."""

    def _describe(self, error: OSError | http.client.HTTPException) -> str:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, TimeoutError):
            return f"nothing came for {self._config.timeout_s:g} s"
        return describe(error if isinstance(error, urllib.error.HTTPError) else _as_exception(cause))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses to be sent to another address."""

    def redirect_request(self, *_: object) -> None:
        raise OSError("redirect")


def _fetch(credentials: Credentials, timeout: float) -> bytes:
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if credentials.user:
        passwords.add_password(None, credentials.plain_url, credentials.user, credentials.password)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),
        _NoRedirect,
        urllib.request.HTTPDigestAuthHandler(passwords),
        urllib.request.HTTPBasicAuthHandler(passwords),
    )
    with opener.open(credentials.plain_url, timeout=timeout) as answer:
        content: bytes = answer.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError(None, f"its answer has more than {MAX_BYTES} bytes")
    return content


def _decode(content: bytes) -> SourceFrame:
    try:
        return SourceFrame(read_still(content))
    except QzdError as error:
        return SourceFrame(None, error.found)


def _as_exception(cause: str | BaseException) -> Exception:
    return cause if isinstance(cause, Exception) else OSError(None, str(cause))
