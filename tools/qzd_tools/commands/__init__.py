"""The commands of `qzd-tools`: one file a command, found by its name; each has a click command `command`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from qzd_ext.errors import UsageError

__all__ = [
    *("BUNDLE", "DIRECTORY", "FILE", "PRECISIONS"),
    *("json_option", "precision_option", "say", "write_json"),
]

BUNDLE = click.Path(path_type=Path)
"""A bundle's directory; whether it is one is said by `bundle.read`, which says more than click can."""
DIRECTORY = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)

STDOUT = Path("-")
"""What `--json` takes for the standard output."""


def _writable(_context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a file that cannot be written before the work, not after it."""
    if path is not None and path != STDOUT:
        there = next(p for p in (path, *path.absolute().parents) if p.exists())
        if not os.access(there, os.W_OK) or (there != path and not there.is_dir()):
            raise _not_written(path, f"{there} may not be written to")
    return path


json_option = click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    callback=_writable,
    help="Write the result to this file as JSON; - for stdout, which then has nothing else.",
)


PRECISIONS = click.Choice(["f32", "bf16", "f16"])
precision_option = click.option(
    "--precision", type=PRECISIONS, help="What to compute in.  [default: what the bundle was validated in]"
)


def say(text: str) -> None:
    """Tell the person at the terminal: on stdout, or on stderr where `--json -` wants that for itself."""
    context = click.get_current_context(silent=True)
    _print(f"{text}\n", to_stderr=context is not None and context.params.get("json_file") == STDOUT)


def _print(text: str | bytes, *, to_stderr: bool = False) -> None:
    """Print; work goes on in silence when nobody reads on, as after `| head`: click would end it."""
    try:
        click.echo(text, nl=False, err=to_stderr)
    except BrokenPipeError:
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), (sys.stderr if to_stderr else sys.stdout).fileno())


def write_json(path: Path | None, value: Any) -> None:
    """Write a result where `--json` wants it; does nothing without.

    Raises
    ------
    UsageError
        The file cannot be written.
    """
    if path is None:
        return
    text = msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
    if path == STDOUT:
        _print(text)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    except OSError as error:
        raise _not_written(path, str(error.strerror)) from error


def _not_written(path: Path, why: str) -> UsageError:
    return UsageError(f"--json {path}: cannot be written: {why}", fix="name a file in a directory of yours")
