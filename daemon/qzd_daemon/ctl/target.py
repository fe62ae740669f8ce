"""Choose the daemon that a command talks to, and format what it prints."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from qzd_client import connect
from qzd_client.connect import Keys
from qzd_ext.errors import UsageError

__all__ = ["SILENCE_SECONDS", "Target", "coloured", "printable", "report_silence", "table"]

SILENCE_SECONDS = 3.0  # a new subscriber gets a heartbeat well within it

COLOURS = {
    **dict.fromkeys(("ok", "running", "loaded", "swapped", "rolled_back"), "green"),
    **dict.fromkeys(("ended", "waiting", "connecting", "connected", "skipped", "stale", "removed"), "yellow"),
    **dict.fromkeys(("failed", "error", "damaged", "reconnecting", "stalled"), "red"),
}


@dataclass(frozen=True, slots=True)
class Target:
    """Hold the options that stand before the command.

    Attributes
    ----------
    endpoint : str or None
        None: the default of the socket that the command needs.
    key, server_key : Path or None
    """

    endpoint: str | None
    key: Path | None
    server_key: Path | None

    def of(self, socket: Literal["detections", "control", "inference"]) -> str:
        """Return --endpoint, else QZD_DETECTIONS, QZD_CONTROL or QZD_INFERENCE, else the default."""
        default: str = getattr(connect, socket.upper())
        if self.endpoint is not None:  # an empty one is a mistake, never the default daemon
            return self.endpoint
        return os.environ.get(f"QZD_{socket.upper()}") or default

    @property
    def keys(self) -> Keys | None:
        """Return both keys, or None."""
        if self.key is None and self.server_key is None:
            return None
        if self.key is None or self.server_key is None:
            raise UsageError("only one of --key and --server-key is given", wanted="both or neither")
        return Keys(self.key, self.server_key)


def report_silence(endpoint: str) -> None:
    """Print that nothing is received, and what may be the cause."""
    click.echo(f"qzdctl: nothing is received from {endpoint}", err=True)
    click.echo("  To fix: start qzd, or give one of its [publish] bind as --endpoint, and", err=True)
    click.echo("  --key and --server-key if it asks for keys", err=True)


def printable(text: str) -> str:
    """Escape control characters: a reason may hold a file name that others chose."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def coloured(word: str) -> str:
    """Colour a state; click leaves it plain if the output is not a terminal."""
    return click.style(word, fg=COLOURS.get(word))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format rows in columns that are as wide as their widest cell."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(click.unstyle(row[i])) for row in cells) for i in range(len(head))]
    lines = ["  ".join(_padded(c, w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([click.style(lines[0], bold=True), *lines[1:]])


def _padded(cell: str, width: int) -> str:
    return cell + " " * (width - len(click.unstyle(cell)))
