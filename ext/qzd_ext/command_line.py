"""Report errors of the command line in one form: what was found, what was expected, what to do."""

from __future__ import annotations

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
    return UsageError(
        _sentence(error),
        wanted=f"{context.command_path} {usage}",
        fix=f"see `{context.command_path} --help`",
    )


def _sentence(error: click.ClickException) -> str:
    text = error.format_message().strip().removesuffix(".")
    return text[:1].lower() + text[1:]
