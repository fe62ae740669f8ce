"""The command `qzdctl`: what a person asks a running daemon.

What may live here: options and the form of what is printed. The subscriber's side is in `client`.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict

import click
import msgspec

from qzd_daemon import wire
from qzd_daemon.client import (
    DEFAULT_ENDPOINT,
    Client,
    Detections,
    Event,
    Gap,
    ModelState,
    Restarted,
    StreamState,
)
from qzd_ext import __version__
from qzd_ext.errors import InterruptedByUser, QzdError

__all__ = ["main"]

SILENCE_SECONDS = 3.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--endpoint",
    default=DEFAULT_ENDPOINT,
    show_default=True,
    envvar="QZD_ENDPOINT",
    help="One of the daemon's [publish] bind; or QZD_ENDPOINT.",
)
@click.version_option(__version__, prog_name="qzdctl")
@click.pass_context
def cli(context: click.Context, endpoint: str) -> None:
    """Talk to a running qzd.

    Exit codes: 0 done, 2 wrong usage, 3 the endpoint could not be used, 4 interrupted.
    """
    context.obj = endpoint


@cli.command()
@click.option("--stream", "streams", multiple=True, help="Only this stream; may be repeated.")
@click.option("--model", "models", multiple=True, help="Only this model; may be repeated.")
@click.option("--label", "labels", multiple=True, help="Only frames with this label; may be repeated.")
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many frames.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def tail(
    endpoint: str,
    streams: tuple[str, ...],
    models: tuple[str, ...],
    labels: tuple[str, ...],
    count: int | None,
    as_json: bool,
) -> None:
    """Print detections as they are published, and what was lost."""
    say = _json_line if as_json else _text_line
    shown = 0
    with Client(endpoint, streams=streams) as client:
        while count is None or shown < count:
            event = _receive(client, endpoint)
            if isinstance(event, Detections) and not _wanted(event, models, labels):
                continue
            click.echo(say(event))
            shown += isinstance(event, Detections)


def _receive(client: Client, endpoint: str) -> Event:
    """The next event; says so when the daemon is not heard."""
    told = False
    while (event := client.receive(SILENCE_SECONDS)) is None:
        if not told and time.monotonic() - client.heard_at > SILENCE_SECONDS:
            click.echo(f"qzdctl: nothing is heard from {endpoint}", err=True)
            click.echo("  To fix: start qzd, or give one of its [publish] bind as --endpoint", err=True)
            told = True
    return event


def _wanted(event: Detections, models: tuple[str, ...], labels: tuple[str, ...]) -> bool:
    found = {box.label for box in event.detections or ()} | {c.label for c in event.classes or ()}
    return (not models or event.model.name in models) and (not labels or not found.isdisjoint(labels))


def _text_line(event: Event) -> str:
    match event:
        case Detections():
            at = time.strftime("%H:%M:%S", time.localtime(event.captured_ns / 1e9))
            dropped = f" ({event.dropped_before} dropped before)" if event.dropped_before else ""
            return f"{at} {event.stream}/{event.model.name} frame {event.frame}{dropped}: {_found(event)}"
        case Gap():
            return f"-- {event.lost} messages of {event.topic} were lost, {event.first} to {event.last}"
        case Restarted():
            return "-- the daemon has started again"
        case StreamState():
            return f"-- stream {event.stream} {event.state}{_because(event.reason)}"
        case ModelState():
            of = f"{event.model.name} version {event.model.version}"
            return f"-- model {of} {event.state}{_because(event.reason)}"


def _found(event: Detections) -> str:
    if event.outcome != "ok":
        return f"{event.outcome}{_because(event.reason)}"
    boxes = [f"{b.label} {b.score:.2f} at {_corners(b)}" for b in event.detections or ()]
    classes = [f"{c.label} {c.score:.2f}" for c in event.classes or ()]
    return ", ".join(boxes or classes) or "nothing"


def _corners(box: wire.Box) -> str:
    return " ".join(f"{v:.0f}" for v in box.box)


def _because(reason: str | None) -> str:
    return f": {reason}" if reason else ""


def _json_line(event: Event) -> str:
    """A message as it came; what was concluded from messages is marked by `event`."""
    match event:
        case Gap():
            line = {"event": "gap", **asdict(event), "lost": event.lost}
        case Restarted():
            line = {"event": "restarted", **asdict(event)}
        case _:
            return wire.encode(event).decode()
    return msgspec.json.encode(line).decode()


def main() -> None:
    """Run `qzdctl`; an error becomes its message and exit code."""
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.exceptions.Abort:
        sys.exit(InterruptedByUser.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except QzdError as error:
        click.echo(f"qzdctl: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `qzdctl tail | head` is no failure
        sys.stderr.close()
        sys.exit(0)
