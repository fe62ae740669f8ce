"""The manual pages are what the code says, and man reads them without a complaint."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import click
import pytest

from man_pages import PROGRAMS, page

MAN = Path(__file__).resolve().parents[2] / "docs" / "man"


@pytest.mark.parametrize("name", PROGRAMS)
def test_man_page_is_what_the_code_says(name: str) -> None:
    assert (MAN / f"{name}.1").read_text(encoding="utf-8") == page(name), "run `make docs`"


@pytest.mark.parametrize("name", PROGRAMS)
def test_man_page_has_every_command_and_option(name: str) -> None:
    text, command = page(name).replace("\\-", "-"), PROGRAMS[name]
    context = click.Context(command, info_name=name)
    commands = [command]
    if isinstance(command, click.Group):
        names = command.list_commands(context)
        commands += [found for n in names if (found := command.get_command(context, n)) is not None]
        assert [n for n in names if f".SS {n}" not in text] == []
    options = [o for c in commands for o in c.params if isinstance(o, click.Option) and not o.hidden]
    assert [o.opts[-1] for o in options if o.opts[-1] not in text] == []


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff")
@pytest.mark.parametrize("name", PROGRAMS)
def test_man_page_is_sound_roff(name: str) -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww"], input=page(name), capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert f"{name.upper()}(1)" in done.stdout
