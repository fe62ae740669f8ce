"""docs/reference.md is what the code says, and the links of every page exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reference_page import page

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
LINK = re.compile(r"\]\(([^)#:]+)?(?:#([^)]+))?\)")


def test_reference_is_what_the_code_says() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_reference_explains_every_key_and_metric() -> None:
    rows = page().partition("## Messages")[0].splitlines()
    empty = [line for line in rows if line.endswith("|  |")]
    assert empty == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_of_a_page_lead_somewhere(path: Path) -> None:
    for target, anchor in LINK.findall(path.read_text(encoding="utf-8")):
        other = path.parent / target if target else path
        assert other.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_index_names_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert [path.name for path in PAGES if path.name != "index.md" and f"]({path.name})" not in index] == []
