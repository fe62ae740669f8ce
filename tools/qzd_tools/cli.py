"""`qzd-tools`: the command group, and the one place where errors become messages and exit codes.

The commands themselves are the files of `commands`.
"""

from __future__ import annotations

import importlib
import io
import pkgutil
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import click

from qzd_ext import __version__
from qzd_ext.command_line import report, usage_error
from qzd_ext.errors import InterruptedByUser, QzdError, ResourceError, UsageError
from qzd_tools import commands

__all__ = ["cli", "main"]


class _Commands(click.Group):
    """A group whose commands are the modules of `qzd_tools.commands`, imported when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(module.name for module in pkgutil.iter_modules(commands.__path__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = importlib.import_module(f"{commands.__name__}.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qzd-tools")
def cli() -> None:
    """Make detectors small without losing what they see: convert, quantize, validate.

    A bundle is a directory with a model and everything needed to run and to judge it. Exit codes: 0 done,
    1 a gate failed, 2 wrong usage, 3 a file, model or device could not be used, 4 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `qzd-tools`; the console script's entry.

    Returns
    -------
    int
        The exit code: 0 done, 1 a gate failed, 2 wrong usage, 3 a file, model or device could not be
        used, 4 interrupted.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a label may have letters that the terminal lacks
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in ours:
        signal.signal(number, _interrupt)
    try:
        return int(cli.main(arguments, prog_name="qzd-tools", standalone_mode=False) or 0)
    except (Exception, KeyboardInterrupt) as error:
        # what was interrupted may make another error of it, as OpenVINO does while it is imported
        interrupted = any(signal.getsignal(number) is signal.SIG_IGN for number in ours)
        code = _told(KeyboardInterrupt() if interrupted else error)
        if code is None:
            raise
        return code
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is _interrupt:
                signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """End the work at the first signal, and ignore those after it, which would disturb the cleaning up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _told(error: BaseException) -> int | None:
    """Say what ended the work; its exit code, or None where it is nothing that a person can act on."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return UsageError.exit_code
    if isinstance(error, click.UsageError):
        return _fail(usage_error(error))
    if isinstance(error, click.ClickException):
        return _fail(ResourceError(error.format_message()))
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return _fail(InterruptedByUser("interrupted; nothing half-written was left"))
    if isinstance(error, QzdError):
        return _fail(error)
    if isinstance(error, UnicodeEncodeError):  # a path whose bytes are no UTF-8, in JSON
        return _fail(ResourceError(f"{error.object!r}: not UTF-8", fix="rename it"))
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return _fail(ResourceError(f"{where}{error.strerror or error}"))
    return None


def _fail(error: QzdError) -> int:
    return report("qzd-tools", error)


if __name__ == "__main__":
    sys.exit(main())
