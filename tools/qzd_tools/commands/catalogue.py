"""`qzd-tools catalogue`: the models that are known by name."""

from __future__ import annotations

from pathlib import Path

import click

from qzd_tools.commands import FILE, json_option, say, write_json

__all__ = ["catalogue_option", "command"]

catalogue_option = click.option(
    "--catalogue", "catalogue_file", type=FILE, help="A catalogue of your own, in the packaged one's form."
)


@click.command()
@catalogue_option
@json_option
def command(catalogue_file: Path | None, json_file: Path | None) -> None:
    """List the models that `download` and `prepare` know by name."""
    from qzd_tools.catalogue import load

    entries = load(catalogue_file)
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
