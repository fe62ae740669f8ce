"""The user and password of a camera: read from where they are kept, put into its URL, and shown nowhere."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from qzd_daemon.config.schema import StreamConfig
from qzd_ext.errors import SourceError

__all__ = ["Credentials"]

MAX_BYTES = 1024


class Credentials:
    """A camera's user and password.

    Parameters
    ----------
    config : StreamConfig

    Attributes
    ----------
    user, password : str
        Empty if there are none.
    url : str
        The source with both; not to be shown.

    Raises
    ------
    SourceError
        The file or variable cannot be read.
    """

    def __init__(self, config: StreamConfig) -> None:
        parts = urlsplit(config.source)
        self.user = config.user or unquote(parts.username or "")
        self.password = _read_password(config) or unquote(parts.password or "")
        host = parts.netloc.rpartition("@")[2]
        who = quote(self.user, safe="") + (f":{quote(self.password, safe='')}" if self.password else "")
        self.url = urlunsplit(parts._replace(netloc=f"{who}@{host}" if who else host))
        self.plain_url = urlunsplit(parts._replace(netloc=host))
        hidden = [part for part in (*parts.path.split("/"), parts.query) if "=" in part or ":" in part]
        secrets = {self.password, quote(self.password, safe=""), *hidden}
        self._secrets = sorted(filter(None, secrets), key=len, reverse=True)

    def redact(self, text: str) -> str:
        """Return a text without what is secret in it."""
        for secret in self._secrets:
            text = text.replace(secret, "...")
        return text


def _read_password(config: StreamConfig) -> str | None:
    if config.password_env is not None:
        password = os.environ.get(config.password_env)
        if password is None:
            raise SourceError(
                f"password_env: there is no environment variable {config.password_env}",
                fix="set it for the service, for example with Environment= or EnvironmentFile=",
            )
        return password
    if config.password_file is None:
        return config.password
    path = Path(config.password_file)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"password_file: {path}: {getattr(error, 'strerror', None) or 'not UTF-8'}",
            wanted="a file with the password, which the daemon's user may read",
        ) from error
    if len(content) > MAX_BYTES:
        raise SourceError(f"password_file: {path}: more than {MAX_BYTES} bytes", wanted="only the password")
    return text.removesuffix("\n").removesuffix("\r")
