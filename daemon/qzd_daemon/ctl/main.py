"""Run the command `qzdctl`, with which a person asks a running daemon."""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click
import click.shell_completion
import msgspec

from qzd_daemon.ctl import control
from qzd_daemon.ctl.infer import infer
from qzd_daemon.ctl.keygen import keygen
from qzd_daemon.ctl.look import look
from qzd_daemon.ctl.recordings import record, replay
from qzd_daemon.ctl.tail import tail
from qzd_daemon.ctl.target import Target
from qzd_ext import __version__
from qzd_ext.command_line import report, usage_error
from qzd_ext.errors import EndpointError, InterruptedByUser, QzdError, ResourceError, UsageError

__all__ = ["cli", "main"]

PROGRAMS = ("qzdctl", "qzd", "qzd-tools")
KEY_FILE = click.Path(dir_okay=False, path_type=Path)


class Commands(click.Group):
    """Exit without an error when the reader closes the pipe, as in `qzdctl tail | head`."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _forget_output()
            ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--endpoint",
    help="Use this endpoint of the daemon; default: QZD_CONTROL and so on.",
)
@click.option(
    "--key",
    type=KEY_FILE,
    envvar="QZD_KEY",
    show_envvar=True,
    help="Use this secret key, for TCP with CURVE.",
)
@click.option(
    "--server-key",
    type=KEY_FILE,
    envvar="QZD_SERVER_KEY",
    show_envvar=True,
    help="Expect this public key of the daemon.",
)
@click.version_option(__version__, prog_name="qzdctl")
@click.pass_context
def cli(context: click.Context, endpoint: str | None, key: Path | None, server_key: Path | None) -> None:
    """Talk to a running qzd.

    Exit codes: 0 done, 1 a self-test failed, 2 wrong usage, 3 the daemon could not be reached or could not
    do it, 4 interrupted. Endpoints come from QZD_DETECTIONS, QZD_CONTROL and QZD_INFERENCE if set.
    """
    context.obj = Target(endpoint, key, server_key)
    if "NO_COLOR" in os.environ:  # no-color.org
        context.color = False


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.option(
    "--program",
    type=click.Choice(PROGRAMS),
    default="qzdctl",
    show_default=True,
    help="Complete this program.",
)
def completion(shell: str, program: str) -> None:
    """Print the script that makes SHELL complete commands and options.

    For bash: `qzdctl completion bash > ~/.local/share/bash-completion/completions/qzdctl`
    """
    kind = click.shell_completion.get_completion_class(shell)
    assert kind is not None
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"  # as click names it in the program itself
    click.echo(kind(cli, {}, program, variable).source())


for command in (*control.COMMANDS, tail, look, infer, record, replay, keygen, completion):
    cli.add_command(command)


def _forget_output() -> None:
    """Redirect stdout to /dev/null: Python would try to flush its buffer again at exit, and complain."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Run `qzdctl`; turn an error into its message and exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # process 1 ignores SIGTERM by default
    if isinstance(
        sys.stdout, io.TextIOWrapper
    ):  # a label may have letters that the terminal's encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(cli.main(prog_name="qzdctl", standalone_mode=False))
    except click.exceptions.Abort:
        sys.exit(InterruptedByUser.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        sys.exit(report("qzdctl", usage_error(error)))
    except QzdError as error:
        sys.exit(report("qzdctl", error))
    except UnicodeEncodeError:  # an argument that is not UTF-8
        click.echo("qzdctl: an argument is not UTF-8", err=True)
        sys.exit(UsageError.exit_code)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        click.echo(f"qzdctl: received a message that is not of qzd's protocol: {error}", err=True)
        sys.exit(EndpointError.exit_code)
    except OSError as error:
        _forget_output()
        click.echo(f"qzdctl: {error.filename or 'standard output'}: {error.strerror}", err=True)
        sys.exit(ResourceError.exit_code)
