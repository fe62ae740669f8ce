"""The JSON Schema files are those of the structs, and messages conform to them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from json_schema import ASKED, SCHEMAS, schema, text
from qzd_client import messages, requests

DIRECTORY = Path(__file__).resolve().parents[2] / "docs" / "schema"
DOCUMENT = DIRECTORY.parent / "protocol.md"


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_file_is_what_the_structs_say(name: str) -> None:
    assert (DIRECTORY / f"{name}.json").read_bytes() == text(SCHEMAS[name]), "run `make build`"


def test_schema_files_are_those_of_messages_alone() -> None:
    assert {path.stem for path in DIRECTORY.iterdir()} == set(SCHEMAS)


@pytest.mark.parametrize("name", [name for name in SCHEMAS if name != "qzd.toml"])
def test_protocol_links_every_schema(name: str) -> None:
    linked = DOCUMENT.read_text().count(f"(schema/{name}.json)")
    assert linked or name.endswith((".reply", ".refusal"))


def test_schema_requires_what_is_always_sent() -> None:
    required = set(schema(messages.Heartbeat)["required"])
    sent = json.loads(messages.encode(messages.Heartbeat(state="serving", interval_ms=1, topics={})))
    assert set(sent) == required


def test_schema_lets_a_caller_leave_out_what_has_a_default() -> None:
    assert requests.Request in ASKED
    assert schema(requests.Request)["required"] == ["schema", "op"]


def test_schema_describes_fields_by_their_docstrings() -> None:
    described = schema(messages.Detections)["$defs"]["Box"]["properties"]["box"]["description"]
    assert described.startswith("x0 y0 x1 y1 in pixels of the source frame")
