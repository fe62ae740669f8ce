"""The JSON Schema of every message, made from the structs: `python -m json_schema docs/schema`."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
import typing
from pathlib import Path
from typing import Any

import msgspec

from qzd_client import messages, requests
from qzd_daemon.config.schema import Config

__all__ = ["SCHEMAS", "schema"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

SCHEMAS: dict[str, type[msgspec.Struct]] = {
    "qzd.detections-1": messages.Detections,
    "qzd.stream-1": messages.StreamState,
    "qzd.model-1": messages.ModelState,
    "qzd.heartbeat-1": messages.Heartbeat,
    "qzd.control-1.request": requests.Request,
    "qzd.control-1.reply": requests.Reply,
    "qzd.control-1.refusal": requests.ErrorReply,
    "qzd.control-1.result.ping": requests.Pong,
    "qzd.control-1.result.status": requests.Status,
    "qzd.control-1.result.stream": requests.StreamStatus,
    "qzd.control-1.result.model": requests.ModelStatus,
    "qzd.control-1.result.device": requests.DeviceStatus,
    "qzd.control-1.result.snapshot": requests.Snapshot,
    "qzd.control-1.result.self_test": requests.SelfTestResult,
    "qzd.inference-1.header": requests.ImageHeader,
    "qzd.ingest-1.header": requests.FrameHeader,
    "qzd.taken-1": requests.Accepted,
    "qzd.error-1": requests.ImageError,
    "qzd.toml": Config,
}
"""By the name of the file."""

# what others write may leave out what has a default
ASKED = (requests.Request, requests.ImageHeader, requests.FrameHeader, Config)


def schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the JSON Schema of a struct, with a description of every field."""
    (made,), parts = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    for name, struct in _structs(kind).items():
        if name in parts:
            _describe(parts[name], struct, asked=kind in ASKED)
    top = parts.pop(made["$ref"].rpartition("/")[2])
    return {"$schema": DIALECT, **top, **({"$defs": parts} if parts else {})}


def write(directory: Path) -> None:
    """Write every schema as a file; files that are not among them are removed."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("*.json"):
        if path.stem not in SCHEMAS:
            path.unlink()
    for name, kind in SCHEMAS.items():
        (directory / f"{name}.json").write_bytes(text(kind))


def text(kind: type[msgspec.Struct]) -> bytes:
    """Return a schema as its file has it."""
    return msgspec.json.format(msgspec.json.encode(schema(kind))) + b"\n"


def _structs(kind: type[msgspec.Struct]) -> dict[str, type[msgspec.Struct]]:
    """Return the struct and all that its fields hold, by name."""
    found: dict[str, type[msgspec.Struct]] = {}
    todo: list[Any] = [kind]
    while todo:
        one = todo.pop()
        if isinstance(one, type) and issubclass(one, msgspec.Struct) and one.__name__ not in found:
            found[one.__name__] = one
            todo += typing.get_type_hints(one).values()
        todo += typing.get_args(one)
    return found


def _describe(part: dict[str, Any], kind: type[msgspec.Struct], *, asked: bool) -> None:
    part["description"] = " ".join((kind.__doc__ or "").split())
    help_of = _field_docs(kind)
    hints = typing.get_type_hints(kind)
    for name, field in part["properties"].items():
        if not asked:
            field.pop("default", None)
        if name in help_of and "description" not in field:
            field["description"] = help_of[name]
    if not asked:  # the daemon always writes a field, except one that may be unset
        absent = {name for name, hint in hints.items() if msgspec.UnsetType in typing.get_args(hint)}
        part["required"] = [name for name in part["properties"] if name not in absent]


def _field_docs(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Return the docstrings that follow the fields of a struct and of those it extends."""
    docs: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if not (issubclass(one, msgspec.Struct) and one is not msgspec.Struct):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        assert isinstance(tree, ast.ClassDef)
        for field, after in zip(tree.body, tree.body[1:], strict=False):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                    docs[name] = " ".join(words.split())
    return docs


if __name__ == "__main__":
    write(Path(sys.argv[1]))
