"""`qzd-tools catalogue`: the models that are known by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qzd_ext.errors import DataError
from qzd_tools.commands import FILE, json_option, say, write_json
from qzd_tools.commands.convert import command as convert_command

if TYPE_CHECKING:
    from qzd_tools.download.catalogue import Entry

__all__ = ["catalogue_option", "command", "load_checked"]

catalogue_option = click.option(
    "--catalogue", "catalogue_file", type=FILE, help="A catalogue of your own, in the packaged one's form."
)


@click.command()
@catalogue_option
@json_option
def command(catalogue_file: Path | None, json_file: Path | None) -> None:
    """List the models that `download` and `prepare` know by name."""
    entries = load_checked(catalogue_file)
    for name, entry in sorted(entries.items()):
        published = ", ".join(
            f"{key} {value:.4f}" for key, value in entry.published.items() if isinstance(value, float)
        )
        size = f"{entry.bytes / 1e6:.0f} MB" if entry.bytes else "size not known"
        say(f"{name}: {entry.title}")
        say(f"  {entry.task}, {entry.format}, {size}, {entry.licence}")
        say(f"  input {entry.input}")
        if published:
            say(f"  published on {entry.published.get('dataset', '?')}: {published}")
        if not entry.verifiable:
            say("  its checksum is not known: `download --unverified` records what comes")
    write_json(json_file, entries)


def load_checked(catalogue_file: Path | None) -> Mapping[str, Entry]:
    """Load the catalogue and check that every key of `convert` is an option of convert.

    Raises
    ------
    DataError
        It cannot be read, or an entry is wrong; the message names the key.
    """
    from qzd_tools.download.catalogue import load

    entries = load(catalogue_file)
    known = [param.name for param in convert_command.params]
    for name, entry in entries.items():
        for key in entry.convert:
            if key not in known:
                raise DataError(
                    f"{catalogue_file}: {name}.convert.{key}: convert has no such option",
                    wanted=f"some of {', '.join(sorted(filter(None, known)))}",
                )
    return entries
