"""Call the control socket: show what runs, and change it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import click
import msgspec

from qzd_client.control import ControlClient
from qzd_client.request_client import REPLY_SECONDS
from qzd_daemon.ctl.tables import (
    devices_text,
    model_text,
    models_text,
    snapshot_text,
    status_text,
    streams_text,
)
from qzd_daemon.ctl.target import Target
from qzd_ext.options import Finite

__all__ = ["COMMANDS"]

T = TypeVar("T")

LONG_SECONDS = 600.0  # compiling for a device that has no cache may take minutes


def _client(target: Target, timeout: float = REPLY_SECONDS) -> ControlClient:
    return ControlClient(target.reach("control"), keys=target.keys, timeout=timeout)


def _show(result: T, as_json: bool, form: Callable[[T], str]) -> None:
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(result)).decode())
    else:
        click.echo(form(result))


def _show_repeatedly(
    ask: Callable[[], T], as_json: bool, form: Callable[[T], str], interval: float | None
) -> None:
    """Show what is asked for once, or every `interval` seconds."""
    while True:
        result = ask()
        if interval is not None and not as_json:
            click.clear()
        _show(result, as_json, form)
        if interval is None:
            return
        time.sleep(interval)


as_json_option = click.option("--json", "as_json", is_flag=True, help="Print the daemon's answer as JSON.")
watch_option = click.option("--watch", is_flag=True, help="Refresh until Ctrl-C.")
interval_option = click.option(
    "--interval",
    type=Finite(0.1, 86400),
    default=1.0,
    show_default=True,
    help="Refresh at this interval in seconds.",
)
model_argument = click.argument("model")


@click.command()
@as_json_option
@watch_option
@interval_option
@click.pass_obj
def status(target: Target, as_json: bool, watch: bool, interval: float) -> None:
    """Show sockets, streams and models."""
    with _client(target) as control:
        _show_repeatedly(control.status, as_json, status_text, interval if watch else None)


@click.command()
@as_json_option
@watch_option
@interval_option
@click.pass_obj
def streams(target: Target, as_json: bool, watch: bool, interval: float) -> None:
    """Show the streams, the states of their sources and their rates.

    Rates, latencies and the share of dropped frames are those of the last 10 seconds. Latency counts from the
    capture of a frame until its message is sent.
    """
    with _client(target) as control:
        _show_repeatedly(control.streams, as_json, streams_text, interval if watch else None)


@click.command()
@as_json_option
@click.pass_obj
def models(target: Target, as_json: bool) -> None:
    """Show the models and the devices that execute them.

    The column `version` is what `qzdctl swap` takes.
    """
    with _client(target) as control:
        _show(control.models(), as_json, models_text)


@click.command()
@as_json_option
@click.pass_obj
def devices(target: Target, as_json: bool) -> None:
    """Show the devices of the daemon's machine."""
    with _client(target, LONG_SECONDS) as control:
        _show(control.devices(), as_json, devices_text)


@click.command()
@as_json_option
@click.pass_obj
def snapshot(target: Target, as_json: bool) -> None:
    """Show the last message of every topic."""
    with _client(target) as control:
        _show(control.snapshot(), as_json, snapshot_text)


@click.command("self-test")
@click.argument("model", required=False)
@as_json_option
@click.pass_obj
def self_test(target: Target, model: str | None, as_json: bool) -> None:
    """Run the golden frames of MODEL or of all models.

    Exits with 1 when a frame gives other boxes than those in the bundle.
    """
    with _client(target, LONG_SECONDS) as control:
        _show(control.self_test(model), as_json, lambda result: f"passed: {', '.join(result.models)}")


@click.command()
@model_argument
@click.argument("bundle")
@click.option("--device", help="Run it on this device; default: AUTO.")
@as_json_option
@click.pass_obj
def load(target: Target, model: str, bundle: str, device: str | None, as_json: bool) -> None:
    """Serve BUNDLE as MODEL until the next reload.

    BUNDLE is an absolute path on the daemon's machine.
    """
    with _client(target, LONG_SECONDS) as control:
        _show(control.load(model, bundle, device), as_json, model_text)


@click.command()
@model_argument
@click.argument("version")
@as_json_option
@click.pass_obj
def swap(target: Target, model: str, version: str, as_json: bool) -> None:
    """Serve MODEL with its bundle VERSION, without a pause.

    VERSION is the name of a directory below the model's `bundle`, as `qzdctl models` shows it.
    """
    with _client(target, LONG_SECONDS) as control:
        _show(control.swap(model, version), as_json, model_text)


@click.command()
@model_argument
@as_json_option
@click.pass_obj
def rollback(target: Target, model: str, as_json: bool) -> None:
    """Serve MODEL with the bundle it had before its last swap."""
    with _client(target, LONG_SECONDS) as control:
        _show(control.rollback(model), as_json, model_text)


@click.command()
@model_argument
@as_json_option
@click.pass_obj
def unload(target: Target, model: str, as_json: bool) -> None:
    """Stop to serve MODEL; no stream may use it."""
    with _client(target, LONG_SECONDS) as control:
        control.unload(model)
    _show(None, as_json, lambda _: f"{model} is unloaded")


@click.command()
@as_json_option
@click.pass_obj
def reload(target: Target, as_json: bool) -> None:
    """Read the configuration file again and apply its changes."""
    with _client(target, LONG_SECONDS) as control:
        control.reload()
    _show(None, as_json, lambda _: "reloaded")


COMMANDS = (status, streams, models, devices, snapshot, self_test, load, swap, rollback, unload, reload)
