"""The commands of `qzd-tools`: one file a command, found by its name; each has a click command `command`.

What may live here: options, and the words that a person reads. Work is done by the modules they call,
which are imported inside the command, so that `--help` is quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from qzd_ext.errors import UsageError

__all__ = ["BUNDLE", "DIRECTORY", "FILE", "json_option", "say", "write_json"]

BUNDLE = click.Path(path_type=Path)
"""A bundle's directory; whether it is one is said by `bundle.read`, which says more than click can."""
DIRECTORY = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)

json_option = click.option("--json", "json_file", type=FILE, help="Write the result to this file as JSON.")


def say(text: str) -> None:
    """Tell the person at the terminal; results go to stdout, and so does this."""
    click.echo(text)


def write_json(path: Path | None, value: Any) -> None:
    """Write a result where `--json` wants it; does nothing without.

    Raises
    ------
    UsageError
        The file cannot be written.
    """
    if path is None:
        return
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    except OSError as error:
        raise UsageError(
            f"--json {path}: cannot be written: {error.strerror}",
            fix="name a file in a directory that exists",
        ) from error
