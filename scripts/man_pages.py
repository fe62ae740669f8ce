"""Write the manual pages from the code: `python scripts/man_pages.py docs/man`.

Source: man(7), groff_man(7).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from qzd_daemon.cli import main as qzd
from qzd_daemon.ctl.main import cli as qzdctl
from qzd_ext import __version__
from qzd_tools.cli import cli as qzd_tools

__all__ = ["PROGRAMS", "page"]

PROGRAMS: dict[str, click.Command] = {"qzd": qzd, "qzdctl": qzdctl, "qzd-tools": qzd_tools}
SEE_ALSO = {"qzd": ("qzdctl",), "qzdctl": ("qzd",), "qzd-tools": ("qzd", "qzdctl")}
WIDTH = 10_000  # help texts are not wrapped: man does that


def page(name: str) -> str:
    """Return the manual page of a program, as roff."""
    context = _context(PROGRAMS[name], name)
    summary, about = _help_of(context.command)
    lines = [
        f'.TH {name.upper()} 1 "" "qzd {__version__}" "qzd"',
        ".SH NAME",
        f"{_text(name)} \\- {_text(summary.rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {_text(context.command_path)}",
        _text(" ".join(context.command.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        *_paragraphs(about or summary),
        ".SH OPTIONS",
        *_options(context),
        *_commands(context),
        ".SH SEE ALSO",
        ", ".join(f"\\fB{_text(other)}\\fR(1)" for other in SEE_ALSO[name]),
        "",
    ]
    return "\n".join(lines)


def _commands(context: click.Context) -> Iterator[str]:
    group = context.command
    if not isinstance(group, click.Group):
        return
    yield ".SH COMMANDS"
    for name in sorted(group.list_commands(context)):
        command = group.get_command(context, name)
        assert command is not None
        inner = _context(command, name, context)
        usage = " ".join(command.collect_usage_pieces(inner))
        yield f".SS {_text(name)} {_text(usage)}"
        summary, about = _help_of(command)
        yield from _paragraphs(f"{summary}\n\n{about}")
        yield from _options(inner)


def _context(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    settings = {**command.context_settings, "max_content_width": WIDTH, "terminal_width": WIDTH}
    return click.Context(command, parent, name, **settings)


def _help_of(command: click.Command) -> tuple[str, str]:
    """Return the first line of a command's help, and the rest."""
    summary, _, rest = (command.help or "").strip().partition("\n")
    return summary.strip(), rest.strip()


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text.replace("\b", "").strip()):
        yield ".PP"
        yield _text(" ".join(paragraph.split()))


def _options(context: click.Context) -> Iterator[str]:
    inner = context.parent is not None
    for parameter in context.command.get_params(context):
        known = isinstance(parameter, click.Option) and not (inner and parameter.name == "help")
        record = parameter.get_help_record(context) if known else None
        if record is not None:
            names, text = record
            yield ".TP"
            yield f"\\fB{_text(names)}\\fR"
            yield _text(" ".join(text.split()))


def _text(text: str) -> str:
    """Escape what roff obeys: backslashes, minus signs, and dots and quotes that begin a line."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for program in PROGRAMS:
        (directory / f"{program}.1").write_text(page(program), encoding="utf-8")
