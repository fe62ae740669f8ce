"""qzd.toml for tests, put together from tables; `{...}` is filled in by `str.format`.

`ENDPOINT` stands for the socket that `support.processes.Daemon` publishes on.
"""

from __future__ import annotations

import json

__all__ = ["model", "publish", "sockets", "stream", "table"]

Value = str | bool | float | tuple[str, ...]


def table(name: str, **keys: Value) -> str:
    """Write a table of TOML; what JSON writes of these values is TOML, too."""
    lines = [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    return "\n".join(lines) + "\n"


def publish(*bind: str, **keys: Value) -> str:
    """Publish on ENDPOINT, if no other is named."""
    return table("publish", bind=bind or ("ENDPOINT",), **keys)


def sockets(*names: str, **keys: Value) -> str:
    """Bind the sockets of these names in `{directory}`, all with the same further keys."""
    return "".join(table(name, bind=(f"ipc://{{directory}}/{name}",), **keys) for name in names)


def model(name: str = "tiny", bundle: str = "{bundle}", **keys: Value) -> str:
    """Serve a model on the CPU."""
    return table(f"models.{name}", bundle=bundle, device="CPU", **keys)


def stream(name: str, source: str, model: str = "tiny", **keys: Value) -> str:
    """Read a stream through a model."""
    return table(f"streams.{name}", source=source, model=model, **keys)
