"""Run `qzdctl record` and `qzdctl replay`: keep a daemon's messages in a file."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path
from typing import IO

import click

from qzd_client.connect import DETECTIONS
from qzd_client.recording import Recorder
from qzd_daemon.ctl.silence import reach_detections
from qzd_daemon.ctl.tables import count as counted
from qzd_daemon.ctl.target import Target
from qzd_daemon.server.replay import Player
from qzd_ext.errors import DataError, EndpointError, UsageError
from qzd_ext.options import Finite

__all__ = ["record", "replay"]

LOOK_SECONDS = 0.2


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--seconds", type=Finite(min=0), help="Stop after this many seconds.")
@click.option("--count", type=click.IntRange(min=1), help="Stop after this many messages.")
@click.pass_obj
def record(target: Target, file: Path, seconds: float | None, count: int | None) -> None:
    """Write everything that the daemon publishes to FILE.

    Stops at Ctrl-C.
    """
    end = time.monotonic() + seconds if seconds is not None else math.inf
    try:
        lines = file.open("xb")
    except FileExistsError as error:
        raise UsageError(f"{file}: the file exists already", fix="choose another name") from error
    except OSError as error:
        raise UsageError(f"{file}: cannot be created: {error.strerror}", fix="choose another name") from error
    try:
        with lines:
            endpoint = reach_detections(target, end)
            with Recorder(endpoint, target.keys, lines) as recorder:
                _record(recorder, lines, endpoint, end, count)
    except OSError as error:
        raise DataError(
            f"{file}: cannot be written: {error.strerror}",
            wanted="a file system with room for it",
            fix="free some space, or choose another place; all but the last line can be replayed",
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            if not file.stat().st_size:
                file.unlink()


def _record(recorder: Recorder, lines: IO[bytes], endpoint: str, end: float, count: int | None) -> None:
    """Record until `end`, or until `count` messages are written."""
    recorded = 0
    try:
        while time.monotonic() < end and recorded != count:
            recorded += recorder.record(LOOK_SECONDS) is not None
    finally:
        lines.flush()  # before the message below says that they are in the file
        if recorded:
            click.echo(f"{counted(recorded, 'message')} in {lines.name}", err=True)
    if not recorded:
        raise EndpointError(
            f"{endpoint}: nothing was received",
            wanted="a heartbeat every second",
            fix="record for longer, or see the daemon's log",
        )


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--bind",
    multiple=True,
    default=(DETECTIONS,),
    show_default=True,
    help="Publish on this endpoint; may be repeated.",
)
@click.option(
    "--speed", type=Finite(0.001, 1000), default=1.0, help="Replay at this speed; 2 is twice as fast."
)
@click.option("--fast", is_flag=True, help="Replay as fast as possible.")
@click.option("--loop", is_flag=True, help="Repeat until Ctrl-C.")
@click.option("--wait", is_flag=True, help="Begin when the first subscriber connects.")
def replay(file: Path, bind: tuple[str, ...], speed: float, fast: bool, loop: bool, wait: bool) -> None:
    """Publish the messages of FILE as a running daemon does."""
    player = Player(bind)
    click.echo(f"publishing on {', '.join(player.endpoints)}", err=True)
    try:
        if wait:
            player.wait()
        while True:
            count = player.play(file, None if fast else speed)
            click.echo(f"{counted(count, 'message')} sent", err=True)
            if not loop:
                return
    finally:
        player.close()
