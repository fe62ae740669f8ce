"""docs/architecture.md draws what import-linter's contracts keep, and names what exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
FLOORS = {"qzd_daemon": ("The daemon", "daemon/qzd_daemon"), "qzd_tools": ("The tools", "tools/qzd_tools")}


def drawn(title: str) -> list[str]:
    """Return the lines of the picture below a title."""
    picture = re.search(rf"^{title}:\n\n```\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
    assert picture is not None
    return picture.group(1).splitlines()


@pytest.mark.parametrize("package", FLOORS)
def test_the_picture_shows_the_floors_of_the_contract(package: str) -> None:
    (contract,) = [c for c in CONTRACTS if c.get("containers") == [package]]
    assert [line.replace("·", ":") for line in drawn(FLOORS[package][0])] == contract["layers"]


@pytest.mark.parametrize("package", FLOORS)
def test_the_picture_names_every_module_of_the_package(package: str) -> None:
    title, folder = FLOORS[package]
    names = {name for line in drawn(title) for name in re.split(r" [·|] ", line)}
    modules = {path.stem for path in (ROOT / folder).iterdir() if path.suffix == ".py" or path.is_dir()}
    assert names == {name for name in modules if not name.startswith("_") and name != "py"}


@pytest.mark.parametrize("package", FLOORS)
def test_the_page_says_what_every_package_is(package: str) -> None:
    for line in drawn(FLOORS[package][0]):
        for name in re.split(r" [·|] ", line):
            assert re.search(rf"^\| [^|]*`{name}`[^|]* \| \S", PAGE, re.MULTILINE), name
