"""Wait for a daemon, and say why nothing comes from it."""

from __future__ import annotations

import math
import time
from collections.abc import Collection

import click

from qzd_client.control import ControlClient
from qzd_client.probe import NothingListensError
from qzd_client.requests import Status, StreamStatus
from qzd_client.subscriber import Client
from qzd_client.text import printable
from qzd_daemon.ctl.target import Target
from qzd_ext.command_line import report
from qzd_ext.errors import EndpointError, QzdError

__all__ = ["Silence", "reach_detections"]

RETRY_SECONDS = 0.5
QUIET_SECONDS = 0.8  # after which a command says why nothing has come yet
SILENCE_SECONDS = 3.0
SILENT_BEATS = 3  # missing heartbeats after which the daemon counts as silent
ANSWER_SECONDS = 1.0


def reach_detections(target: Target, until: float = math.inf) -> str:
    """Return the endpoint of a daemon that publishes, and wait for one that does not run yet.

    Raises
    ------
    EndpointError
        There is none before `until`, by `time.monotonic()`, or it refuses this client.
    """
    told = False
    while True:
        try:
            return target.reach("detections")
        except NothingListensError as error:
            if time.monotonic() >= until:
                raise
            if not told:
                report("qzdctl", error)
                click.echo("  waiting until it starts", err=True)
                told = True
            time.sleep(RETRY_SECONDS)


class Silence:
    """Watch a client for silence, and say once what is the matter.

    Parameters
    ----------
    target : Target
    client : Client
    endpoint : str
        The one that `client` subscribes to.
    streams : collection of str
        Those that are followed; empty for all.
    control : Target or None
        Whose control socket belongs to the same daemon; None if that is not known.
    """

    def __init__(
        self,
        target: Target,
        client: Client,
        endpoint: str,
        streams: Collection[str] = (),
        control: Target | None = None,
    ) -> None:
        self._target, self._client, self._endpoint = target, client, endpoint
        self._streams, self._control = streams, control
        self._began = self._event_at = time.monotonic()
        self._told_quiet = self._told_lost = False

    def event(self) -> None:
        """Note that an event came."""
        self._event_at = time.monotonic()
        self._told_quiet = True

    def look(self) -> None:
        """Say why nothing comes, if nothing does; called about four times per second."""
        now, heard_at = time.monotonic(), self._client.heard_at
        limit = max(SILENCE_SECONDS, SILENT_BEATS * self._client.heartbeat_s)
        if now - max(heard_at, self._began) > limit:
            if not self._told_lost:
                self._told_lost = True
                report("qzdctl", self._why_lost())
            return
        self._told_lost = False
        if not self._told_quiet and now - self._event_at > QUIET_SECONDS:
            self._told_quiet = True
            click.echo(f"qzdctl: connected to {self._endpoint}, {self._why_quiet()}", err=True)

    def _why_lost(self) -> QzdError:
        return self._target.why_unreachable("detections") or EndpointError(
            f"{self._endpoint}: it answers, and publishes nothing",
            wanted="a heartbeat every second",
            fix="see the daemon's log, `journalctl -u qzd -e`",
        )

    def _why_quiet(self) -> str:
        """Return what the daemon says of its streams, if it can be asked."""
        if self._control is None:
            return "and nothing was published yet"
        try:
            with ControlClient(
                self._control.reach("control"), keys=self._control.keys, timeout=ANSWER_SECONDS
            ) as caller:
                status = caller.status()
        except QzdError:
            return "and nothing was published yet"
        return why_quiet(status, self._streams)


def why_quiet(status: Status, followed: Collection[str] = ()) -> str:
    """Return why a daemon publishes nothing about the streams that are followed; empty means all."""
    names = [stream.name for stream in status.streams]
    starting = [problem for problem in status.problems if problem.startswith(("it is starting", "compiling"))]
    if starting:
        return f"and {'; '.join(starting)}"
    if unknown := [name for name in followed if name not in names]:
        there = f"there are {', '.join(names)}" if names else "the configuration has none"
        return f"and there is no stream {', '.join(map(printable, unknown))}; {there}"
    if not names:
        return "and the configuration has no streams"
    chosen = [stream for stream in status.streams if not followed or stream.name in followed]
    return "and nothing yet: " + "; ".join(map(_state, chosen))


def _state(stream: StreamStatus) -> str:
    said = {
        "ended": "has ended",
        "failed": "has failed",
        "running": f"is running, {stream.frames} frames so far",
    }.get(stream.state, f"is {stream.state}")
    return f"stream {stream.name} {said}{f': {printable(stream.reason)}' if stream.reason else ''}"
