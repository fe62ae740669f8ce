"""docs/reference.md, made from the code: `python -m reference_page docs/reference.md`."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

import json_schema
from qzd_client import messages
from qzd_daemon.cli import main as qzd
from qzd_daemon.config import schema as config
from qzd_daemon.ctl.main import cli as qzdctl
from qzd_daemon.monitoring.metrics import READ, Metrics
from qzd_ext import errors

__all__ = ["page"]

HEAD = """# Reference

Made from the code by `make docs`; a test fails when it is not what the code says.
"""
MESSAGES = (messages.Detections, messages.StreamState, messages.ModelState, messages.Heartbeat)
NAMES = {str: "string", int: "integer", float: "number", bool: "boolean", dict[str, str]: "table of strings"}


def page() -> str:
    """Return the whole page, as Markdown."""
    parts = (_configuration(), _metrics(), _messages(), _exit_codes(), _commands())
    return "\n".join((HEAD, *("\n".join(part) for part in parts)))


def _configuration() -> Iterator[str]:
    yield "## Configuration\n"
    yield "`qzd.toml`; the same as JSON Schema: [schema/qzd.toml.json](schema/qzd.toml.json)."
    yield "An unknown key is an error. Relative paths begin at the file.\n"
    for field in msgspec.structs.fields(config.Config):
        named = typing.get_origin(field.type) is dict
        table: Any = typing.get_args(field.type)[1] if named else field.type
        yield f"### `[{field.name}{'.NAME' if named else ''}]`\n"
        about = _sentence(table).partition(": ")[2]
        yield f"{about[0].upper()}{about[1:]}\n"
        yield from _table(("key", "type", "default", "meaning"), _keys(table))


def _keys(table: Any) -> Iterator[tuple[str, ...]]:
    hints = typing.get_type_hints(table, include_extras=True)
    for field in msgspec.structs.fields(table):
        made = field.default_factory is not msgspec.NODEFAULT
        value = field.default_factory() if made else field.default
        default = "required" if field.required else f"`{msgspec.json.encode(value).decode()}`"
        kind, meta = _unwrap(hints[field.name])
        yield f"`{field.name}`", kind, "none" if default == "`null`" else default, meta


def _unwrap(hint: Any) -> tuple[str, str]:
    """Describe a type in words, and by its description."""
    if typing.get_origin(hint) is typing.Annotated:
        inner, *metas = typing.get_args(hint)
        kind = _unwrap(inner)[0]
        limits = [_limit(m) for m in metas if _limit(m)]
        text = " ".join(m.description for m in metas if m.description)
        return " ".join([kind, *limits]), text
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(f'`"{value}"`' for value in typing.get_args(hint)), ""
    if typing.get_origin(hint) is dict:
        return f"table of {_unwrap(typing.get_args(hint)[1])[0]}", ""
    if typing.get_origin(hint) is tuple:
        return "strings", ""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [_unwrap(part)[0] for part in typing.get_args(hint) if part is not type(None)]
        return " or ".join(kinds), ""
    return NAMES[hint], ""


def _limit(meta: msgspec.Meta) -> str:
    limits = (("ge", ">="), ("gt", ">"), ("le", "<="))
    return ", ".join(f"{sign} {v:.10g}" for name, sign in limits if (v := getattr(meta, name)) is not None)


def _metrics() -> Iterator[str]:
    yield "## Metrics\n"
    yield "At `/metrics` of `[http] listen`, in base units. `process_*` are those of prometheus-client.\n"
    yield from _table(("metric", "type", "labels", "meaning"), sorted(_metric_rows()))


def _metric_rows() -> Iterator[tuple[str, ...]]:
    metrics = Metrics(CollectorRegistry(), lambda: {name: {} for name in READ})
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            kind = str(metric._type)
            name = f"`{metric._name}{'_total' if kind == 'counter' else ''}`"
            yield name, kind, _names(metric._labelnames), metric._documentation
    for name, (text, labels) in READ.items():
        yield f"`{name}`", "counter" if name.endswith("_total") else "gauge", _names(labels), text
    yield "`qzd_build_info`", "gauge", "`version`", "1; the daemon's version."


def _names(labels: typing.Iterable[str]) -> str:
    return ", ".join(f"`{label}`" for label in labels)


def _messages() -> Iterator[str]:
    yield "## Messages\n"
    yield "JSON, on the data socket; how they travel is in [protocol.md](protocol.md).\n"
    for message in MESSAGES:
        name = str(message.__struct_config__.tag)
        yield f"### `{name}`\n"
        yield f"{_sentence(message)} [Schema](schema/{name.replace('/', '-')}.json).\n"
        properties = json_schema.schema(message)["properties"]
        yield from _table(
            ("field", "meaning"),
            ((f"`{field}`", _one_line(about.get("description", ""))) for field, about in properties.items()),
        )


def _exit_codes() -> Iterator[str]:
    yield "## Exit codes\n"
    yield "Of `qzd`, `qzdctl` and `qzd-tools`; 0 is success.\n"
    found = [e for e in vars(errors).values() if inspect.isclass(e) and issubclass(e, errors.QzdError)]
    rows = [(str(e.exit_code), f"`{e.__name__}`", _sentence(e)) for e in found if e is not errors.QzdError]
    yield from _table(("code", "error", "meaning"), sorted(rows))


def _commands() -> Iterator[str]:
    yield "## Command lines\n"
    yield _help(_context(qzd, "qzd"))
    whole = _context(qzdctl, "qzdctl")
    yield _help(whole)
    for name, command in sorted(qzdctl.commands.items()):
        yield _help(_context(command, name, whole))


def _context(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    """As the command itself makes it, at a width of our own."""
    settings = {**command.context_settings, "max_content_width": 100, "terminal_width": 100}
    return click.Context(command, parent, name, **settings)


def _help(context: click.Context) -> str:
    return f"### `{context.command_path}`\n\n```text\n{context.get_help()}\n```\n"


def _sentence(documented: Any) -> str:
    """Return the first paragraph of a docstring."""
    return _one_line((inspect.getdoc(documented) or "").split("\n\n")[0])


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _table(head: tuple[str, ...], rows: typing.Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
