"""Call the control socket: show what runs, and change it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import click
import msgspec

from qzd_client.control import ControlClient
from qzd_client.request_client import REPLY_SECONDS
from qzd_client.requests import (
    DeviceStatus,
    ModelStatus,
    SelfTestStatus,
    Snapshot,
    Status,
    StreamStatus,
)
from qzd_daemon.ctl.target import Target, coloured, printable, table
from qzd_ext.options import Finite

__all__ = ["COMMANDS"]

T = TypeVar("T")

LONG_SECONDS = 600.0  # compiling for a device that has no cache may take minutes


def _client(target: Target, timeout: float = REPLY_SECONDS) -> ControlClient:
    return ControlClient(target.of("control"), keys=target.keys, timeout=timeout)


def _show(result: T, as_json: bool, form: Callable[[T], str]) -> None:
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(result)).decode())
    else:
        click.echo(form(result))


as_json_option = click.option("--json", "as_json", is_flag=True, help="Print the daemon's answer as JSON.")
model_argument = click.argument("model")


@click.command()
@as_json_option
@click.option("--watch", is_flag=True, help="Refresh until Ctrl-C.")
@click.option(
    "--interval",
    type=Finite(0.1, 86400),
    default=1.0,
    show_default=True,
    help="Refresh every so many seconds.",
)
@click.pass_obj
def status(target: Target, as_json: bool, watch: bool, interval: float) -> None:
    """Show sockets, streams and models."""
    with _client(target) as control:
        while True:
            result = control.status()
            if watch and not as_json:
                click.clear()
            _show(result, as_json, _status_text)
            if not watch:
                return
            time.sleep(interval)


@click.command()
@as_json_option
@click.pass_obj
def streams(target: Target, as_json: bool) -> None:
    """Show the streams and the states of their sources."""
    with _client(target) as control:
        _show(control.streams(), as_json, _streams_text)


@click.command()
@as_json_option
@click.pass_obj
def models(target: Target, as_json: bool) -> None:
    """Show the models and the devices that execute them."""
    with _client(target) as control:
        _show(control.models(), as_json, _models_text)


@click.command()
@as_json_option
@click.pass_obj
def devices(target: Target, as_json: bool) -> None:
    """Show the devices of the daemon's machine."""
    with _client(target, LONG_SECONDS) as control:
        _show(control.devices(), as_json, _devices_text)


@click.command()
@as_json_option
@click.pass_obj
def snapshot(target: Target, as_json: bool) -> None:
    """Show the last message of every topic."""
    with _client(target) as control:
        _show(control.snapshot(), as_json, _snapshot_text)


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
        _show(control.load(model, bundle, device), as_json, _model_text)


@click.command()
@model_argument
@click.argument("version")
@as_json_option
@click.pass_obj
def swap(target: Target, model: str, version: str, as_json: bool) -> None:
    """Serve MODEL with its bundle VERSION, without a pause.

    VERSION is the name of a directory below the model's `bundle`.
    """
    with _client(target, LONG_SECONDS) as control:
        _show(control.swap(model, version), as_json, _model_text)


@click.command()
@model_argument
@as_json_option
@click.pass_obj
def rollback(target: Target, model: str, as_json: bool) -> None:
    """Serve MODEL with the bundle it had before its last swap."""
    with _client(target, LONG_SECONDS) as control:
        _show(control.rollback(model), as_json, _model_text)


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


def _status_text(status: Status) -> str:
    up = (time.time_ns() - status.started_ns) / 1e9
    lines = [
        f"qzd {status.version}, process {status.pid}, up {up:.0f} s, epoch {status.epoch}",
        f"{status.subscriptions} subscriptions to detections",
        table(
            ("socket", "endpoints", "connections", "refused"),
            [
                (name, " ".join(bound) or "-", status.connections.get(name, 0), _refused(status, name))
                for name, bound in status.endpoints.items()
            ],
        ),
    ]
    return "\n\n".join(("\n".join(lines), _streams_text(status.streams), _models_text(status.models)))


def _refused(status: Status, name: str) -> str:
    counts = {k.removeprefix(f"{name}/"): n for k, n in status.refused.items() if k.startswith(f"{name}/")}
    return " ".join(f"{reason}:{count}" for reason, count in counts.items()) or "-"


def _streams_text(streams: list[StreamStatus]) -> str:
    rows = [
        (
            s.name,
            coloured(s.state),
            s.frames,
            s.damaged,
            s.undecodable,
            s.absent,
            " ".join(s.models),
            s.when_behind,
            printable(s.reason or "-"),
        )
        for s in streams
    ]
    counts = ("frames", "damaged", "undecodable", "absent")
    return table(("stream", "state", *counts, "models", "behind", "reason"), rows)


def _models_text(models: list[ModelStatus]) -> str:
    rows = [
        (
            m.model.name,
            m.model.version,
            m.model.precision,
            m.model.device,
            m.model.inference_precision or "-",
            m.requests,
            f"{m.input[0]}x{m.input[1]}",
            f"{m.thresholds.confidence:g}",
            m.model.digest.removeprefix("sha256:")[:12],
            _self_test_text(m.self_test),
            m.bundle,
        )
        for m in models
    ]
    head = (
        *("model", "version", "precision", "runs on", "computes in"),
        *("requests", "input", "confidence", "digest", "self-test", "bundle"),
    )
    return table(head, rows)


def _self_test_text(test: SelfTestStatus | None) -> str:
    if test is None:
        return "-"
    return f"{'passed' if test.passed else 'failed'} {test.age_s:.0f} s ago"


def _model_text(model: ModelStatus) -> str:
    return _models_text([model])


def _devices_text(devices: list[DeviceStatus]) -> str:
    return table(("device", "models"), [(d.name, " ".join(d.models) or "-") for d in devices])


def _snapshot_text(snapshot: Snapshot) -> str:
    """List each topic with its message as it was published."""
    return "\n".join(f"{entry.topic} {bytes(entry.message).decode()}" for entry in snapshot.messages)


COMMANDS = (status, streams, models, devices, snapshot, self_test, load, swap, rollback, unload, reload)
