"""Report errors of the command line in one form: what was found, what was expected, what to do."""

from __future__ import annotations

import difflib
import re

import click

from qzd_client.text import printable
from qzd_ext.errors import QzdError, UsageError

__all__ = ["report", "usage_error"]


def report(program: str, error: QzdError) -> int:
    """Print an error to stderr.

    Returns
    -------
    int
        Its exit code.
    """
    click.echo(f"{program}: {printable(str(error), keep=chr(10))}", err=True)
    return error.exit_code


def usage_error(error: click.ClickException) -> UsageError:
    """Turn an error of click into one that says what to do."""
    context = getattr(error, "ctx", None)
    if context is None:
        return UsageError(_sentence(error))
    usage = " ".join(context.command.collect_usage_pieces(context))
    meant = _meant(context, error.format_message())
    return UsageError(
        _sentence(error),
        wanted=f"{context.command_path} {usage}",
        fix=f"did you mean `{meant}`?" if meant else f"see `{context.command_path} --help`",
    )


def _meant(context: click.Context, message: str) -> str | None:
    """Return the command that is nearest to one that does not exist; click knows no lazy commands."""
    wrong = re.match("No such command '([^']*)'", message)
    if wrong is None or not isinstance(context.command, click.Group):
        return None
    near = difflib.get_close_matches(wrong[1], context.command.list_commands(context), n=1)
    return f"{context.command_path} {near[0]}" if near else None


def _sentence(error: click.ClickException) -> str:
    text = error.format_message().strip().removesuffix(".")
    return text[:1].lower() + text[1:]
