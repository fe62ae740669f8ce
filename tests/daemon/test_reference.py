"""docs/reference.md is what the code says."""

from __future__ import annotations

from pathlib import Path

from qzd_daemon.reference import page

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference.md"


def test_reference_is_what_the_code_says() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_reference_explains_every_key_and_metric() -> None:
    rows = page().partition("## Messages")[0].splitlines()
    empty = [line for line in rows if line.endswith("|  |")]
    assert empty == []
