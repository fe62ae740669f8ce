"""Format what the daemon answers as tables for people."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import PurePath

import click

from qzd_client.requests import (
    DeviceStatus,
    ModelStatus,
    SelfTestStatus,
    Snapshot,
    Status,
    StreamRates,
    StreamStatus,
)
from qzd_client.text import printable

__all__ = [
    "coloured",
    "count",
    "devices_text",
    "model_text",
    "models_text",
    "snapshot_text",
    "status_text",
    "streams_text",
    "table",
]

COLOURS = {
    **dict.fromkeys(("ok", "running", "loaded", "swapped", "rolled_back"), "green"),
    **dict.fromkeys(("ended", "waiting", "connecting", "connected", "skipped", "stale", "removed"), "yellow"),
    **dict.fromkeys(("failed", "error", "damaged", "reconnecting", "stalled"), "red"),
}


def coloured(word: str) -> str:
    """Colour a state; click leaves it plain if the output is not a terminal."""
    return click.style(word, fg=COLOURS.get(word))


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the singular or plural."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format rows in columns that are as wide as their widest cell."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(click.unstyle(row[i])) for row in cells) for i in range(len(head))]
    lines = ["  ".join(_padded(c, w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([click.style(lines[0], bold=True), *lines[1:]])


def _padded(cell: str, width: int) -> str:
    return cell + " " * (width - len(click.unstyle(cell)))


def status_text(status: Status) -> str:
    """Format the result of `status`."""
    up = (time.time_ns() - status.started_ns) / 1e9
    lines = [
        f"qzd {status.version}, process {status.pid}, up {up:.0f} s, epoch {status.epoch}",
        f"{count(status.subscriptions, 'subscription')} to detections",
        *(click.style(f"not ready: {printable(problem)}", fg="red") for problem in status.problems),
    ]
    sockets = [
        (name, " ".join(bound) or "-", status.connections.get(name, 0), _refused(status, name))
        for name, bound in status.endpoints.items()
    ]
    head = ("socket", "endpoints", "connections", "refused")
    parts = ("\n".join(lines), table(head, sockets), streams_text(status.streams), models_text(status.models))
    return "\n\n".join(parts)


def _refused(status: Status, name: str) -> str:
    counts = {k.removeprefix(f"{name}/"): n for k, n in status.refused.items() if k.startswith(f"{name}/")}
    return " ".join(f"{reason}:{count}" for reason, count in counts.items()) or "-"


def streams_text(streams: list[StreamStatus]) -> str:
    """Format the result of `streams`."""
    rows = [
        (
            s.name,
            coloured(s.state),
            *_rates(s.rates),
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
    head = (
        *("stream", "state", "frames/s", "p50 ms", "p99 ms", "last frame", "dropped"),
        *("frames", "damaged", "undecodable", "absent", "models", "behind", "reason"),
    )
    return table(head, rows)


def _rates(rates: StreamRates | None) -> tuple[str, ...]:
    if rates is None or rates.last_frame_ns is None:
        return ("-",) * 5
    age = max(0.0, (time.time_ns() - rates.last_frame_ns) / 1e9)
    p50, p99 = ("-" if ms is None else f"{ms:.0f}" for ms in (rates.latency_p50_ms, rates.latency_p99_ms))
    return f"{rates.fps:.1f}", p50, p99, f"{age:.1f} s ago", f"{100 * rates.dropped:.0f} %"


def models_text(models: list[ModelStatus]) -> str:
    """Format the result of `models`; `version` is what `qzdctl swap` takes."""
    rows = [
        (
            m.model.name,
            m.directory or "-",
            m.model.version,
            m.model.precision,
            m.model.device,
            m.model.inference_precision or "-",
            m.requests,
            f"{m.input[0]}x{m.input[1]}",
            f"{m.thresholds.confidence:g}",
            m.model.digest.removeprefix("sha256:")[:12],
            printable(m.model.signer or "-"),
            _self_test_text(m.self_test),
            PurePath(m.bundle),
        )
        for m in models
    ]
    head = (
        *("model", "version", "made as", "precision", "runs on", "computes in"),
        *("requests", "input", "confidence", "digest", "signer", "self-test", "bundle"),
    )
    return table(head, rows)


def _self_test_text(test: SelfTestStatus | None) -> str:
    if test is None:
        return "-"
    return f"{'passed' if test.passed else 'failed'} {test.age_s:.0f} s ago"


def model_text(model: ModelStatus) -> str:
    """Format one model."""
    return models_text([model])


def devices_text(devices: list[DeviceStatus]) -> str:
    """Format the result of `devices`."""
    return table(("device", "models"), [(d.name, " ".join(d.models) or "-") for d in devices])


def snapshot_text(snapshot: Snapshot) -> str:
    """List each topic with its message as it was published."""
    return "\n".join(f"{entry.topic} {bytes(entry.message).decode()}" for entry in snapshot.messages)
