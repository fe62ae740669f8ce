"""Run `qzdctl tail`: print detections as they are published, and what was lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import click
import msgspec

from qzd_client import messages
from qzd_client.subscriber import Client, Detections, Event, Gap, ModelState, Restarted, Stale, StreamState
from qzd_client.text import printable
from qzd_daemon.ctl.silence import Silence, reach_detections
from qzd_daemon.ctl.tables import coloured
from qzd_daemon.ctl.target import Target
from qzd_ext.errors import UsageError
from qzd_ext.options import Finite

__all__ = ["tail"]

RATE_SECONDS = 1.0
LOOK_SECONDS = 0.25
ENDS = ("ended", "failed", "removed")


@dataclass(frozen=True, slots=True)
class _Filter:
    """Select which detections are shown."""

    models: tuple[str, ...]
    labels: tuple[str, ...]
    min_score: float
    found: bool

    def passes(self, event: Event) -> bool:
        """Return whether to show an event; only detections are ever left out."""
        if isinstance(event, Stale):
            return self.passes(event.message)
        if not isinstance(event, Detections):
            return True
        if self.models and event.model.name not in self.models:
            return False
        seen = [*(event.detections or ()), *(event.classes or ())]
        labels = {one.label for one in seen if one.score >= self.min_score}
        if self.labels:
            return not labels.isdisjoint(self.labels)
        return bool(labels) or not (self.found or self.min_score)


@click.command()
@click.option("--stream", "streams", multiple=True, help="Show only this stream; may be repeated.")
@click.option("--model", "models", multiple=True, help="Show only this model; may be repeated.")
@click.option("--label", "labels", multiple=True, help="Show only frames with this label; may be repeated.")
@click.option(
    "--min-score", type=Finite(0, 1), default=0.0, help="Show only frames with at least this score."
)
@click.option("--found", is_flag=True, help="Show only frames in which something was found.")
@click.option("--count", type=click.IntRange(min=1), help="Stop after this many frames.")
@click.option("--max-age", type=Finite(min=0), help="Mark frames older than this many seconds as stale.")
@click.option("--snapshot", is_flag=True, help="Begin with the last message of each topic; needs control.")
@click.option("--control", help="Use this control endpoint, to explain silence and for --snapshot.")
@click.option("--rates", is_flag=True, help="Print only the rates of frames and boxes, every second.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.pass_obj
def tail(
    target: Target,
    streams: tuple[str, ...],
    models: tuple[str, ...],
    labels: tuple[str, ...],
    min_score: float,
    found: bool,
    count: int | None,
    max_age: float | None,
    snapshot: bool,
    control: str | None,
    rates: bool,
    as_json: bool,
) -> None:
    """Print detections as they are published, and what was lost."""
    if rates and (count or as_json):
        raise UsageError("--rates is text, and goes on until Ctrl-C", fix="leave out --count and --json")
    say = _json_line if as_json else _text_line
    chosen, ends = _Filter(models, labels, min_score, found), _Ends(streams)
    endpoint = reach_detections(target)
    asked = Target(control, target.key, target.server_key)
    joined = asked.reach("control") if snapshot else None
    shown = 0
    with Client(endpoint, streams=streams, control=joined, keys=target.keys, max_age_s=max_age) as client:
        same = control is not None or target.endpoint is None
        silence = Silence(target, client, endpoint, streams, asked if same else None)
        events = _events(client, silence)
        if rates:
            _print_rates(events, chosen)
        for event in events:
            if event is not None and chosen.passes(event):
                click.echo(say(event))
                ends.note(event)
                shown += isinstance(event, Detections | Stale)
                if shown == count:
                    return


def _events(client: Client, silence: Silence) -> Iterator[Event | None]:
    """Yield each event, and None when nothing comes for a quarter of a second."""
    while True:
        event = client.receive(LOOK_SECONDS)
        if event is None:
            silence.look()
        else:
            silence.event()
        yield event


class _Ends:
    """Say when every stream that is followed has ended."""

    def __init__(self, streams: tuple[str, ...]) -> None:
        self._streams = set(streams)
        self._ended: set[str] = set()

    def note(self, event: Event) -> None:
        """Take in an event."""
        if not isinstance(event, StreamState) or event.stream not in self._streams:
            return
        if event.state not in ENDS:
            self._ended.discard(event.stream)
            return
        self._ended.add(event.stream)
        if self._ended == self._streams:
            names = ", ".join(sorted(self._streams))
            verb = "has" if len(self._streams) == 1 else "have"
            click.echo(f"qzdctl: {names} {verb} ended; Ctrl-C stops waiting for more", err=True)


@dataclass(slots=True)
class _Rate:
    """Count what came on one topic since the last line."""

    frames: int = 0
    found: int = 0
    lost: int = 0
    ages_ms: list[float] = field(default_factory=list)


def _print_rates(events: Iterator[Event | None], chosen: _Filter) -> None:
    """Print one line per topic every second, until Ctrl-C."""
    rates: dict[str, _Rate] = {}
    began = time.monotonic()
    for event in events:
        if isinstance(event, Gap):
            rates.setdefault(event.topic, _Rate()).lost += event.lost
        elif isinstance(event, Detections | Stale) and chosen.passes(event):
            message = event.message if isinstance(event, Stale) else event
            rate = rates.setdefault(messages.detections_topic(message.stream, message.model.name), _Rate())
            rate.frames += 1
            rate.found += len(message.detections or ()) + len(message.classes or ())
            rate.ages_ms.append((time.time_ns() - message.captured_ns) / 1e6)
        if (spent := time.monotonic() - began) >= RATE_SECONDS:
            for topic, rate in sorted(rates.items()):
                click.echo(_rate_line(topic, rate, spent))
            rates = {topic: _Rate() for topic in rates if topic.startswith(messages.DETECTIONS)}
            began = time.monotonic()


def _rate_line(topic: str, rate: _Rate, seconds: float) -> str:
    name = topic.removeprefix(messages.DETECTIONS).rstrip("/")
    age = sorted(rate.ages_ms)[len(rate.ages_ms) // 2] if rate.ages_ms else 0.0
    each = rate.found / rate.frames if rate.frames else 0.0
    lost = f", {rate.lost} lost" if rate.lost else ""
    fps = f"{rate.frames / seconds:.1f} frames/s"
    return f"{time.strftime('%H:%M:%S')} {name}: {fps}, {each:.1f} found in each, {age:.0f} ms old{lost}"


def _text_line(event: Event) -> str:
    match event:
        case Detections():
            at = time.strftime("%H:%M:%S", time.localtime(event.captured_ns / 1e9))
            dropped = f" ({event.dropped_before} dropped before)" if event.dropped_before else ""
            return f"{at} {event.stream}/{event.model.name} frame {event.frame}{dropped}: {_found(event)}"
        case Stale():
            return f"-- {event.age_s:.1f} s old: {_text_line(event.message)}"
        case Gap():
            return f"-- {event.lost} messages of {event.topic} were lost, {event.first} to {event.last}"
        case Restarted():
            return "-- the daemon has restarted"
        case StreamState():
            return f"-- stream {event.stream} {coloured(event.state)}{_because(event.reason)}"
        case ModelState():
            of = f"{event.model.name} version {event.model.version}"
            return f"-- model {of} {coloured(event.state)}{_because(event.reason)}"


def _found(event: Detections) -> str:
    if event.outcome == "ok":
        return _listed(event)
    found = f"; found {_listed(event)}" if event.outcome == "damaged" else ""
    return f"{coloured(event.outcome)}{_because(event.reason)}{found}"


def _listed(event: Detections) -> str:
    boxes = [f"{b.label} {b.score:.2f} at {_corners(b)}" for b in event.detections or ()]
    classes = [f"{c.label} {c.score:.2f}" for c in event.classes or ()]
    return ", ".join(boxes or classes) or "nothing"


def _corners(box: messages.Box) -> str:
    return " ".join(f"{v:.0f}" for v in box.box)


def _because(reason: str | None) -> str:
    return f": {printable(reason)}" if reason else ""


def _json_line(event: Event) -> str:
    """Encode a message as it came; what was concluded from messages has a field `event`."""
    match event:
        case Gap():
            line = {"event": "gap", **asdict(event), "lost": event.lost}
        case Restarted():
            line = {"event": "restarted", **asdict(event)}
        case Stale():
            line = {"event": "stale", "age_s": event.age_s, "message": event.message}
        case _:
            return messages.encode(event).decode()
    return msgspec.json.encode(line).decode()
