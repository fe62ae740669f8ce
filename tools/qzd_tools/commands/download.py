"""`qzd-tools download`: a model of the catalogue, checked and unpacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from qzd_ext.options import Finite
from qzd_tools.commands import DIRECTORY, json_option, say, write_json
from qzd_tools.commands.catalogue import catalogue_option

__all__ = ["command", "origin_options"]


def origin_options(function: Any) -> Any:
    """The options that say where files are taken from."""
    for option in (
        click.option("--mirror", "mirrors", multiple=True, help="Tried first: MIRROR/NAME/FILE."),
        click.option("--from", "from_directory", type=DIRECTORY, help="Copy the files from here."),
        click.option("--unverified", is_flag=True, help="Accept files whose checksum is not known."),
        click.option("--stall", type=Finite(0.1), default=30.0, show_default=True,
                     help="Seconds without a byte until a server is given up."),
        click.option("--attempts", type=click.IntRange(1), default=4, show_default=True,
                     help="At each address, each going on where the one before stopped."),
    ):  # fmt: skip
        function = option(function)
    return function


@click.command()
@click.argument("name")
@click.option("-o", "--output", type=DIRECTORY, help="The directory.  [default: ./NAME]")
@catalogue_option
@origin_options
@json_option
def command(
    name: str,
    output: Path | None,
    catalogue_file: Path | None,
    mirrors: tuple[str, ...],
    from_directory: Path | None,
    unverified: bool,
    stall: float,
    attempts: int,
    json_file: Path | None,
) -> None:
    """Fetch the model NAME of the catalogue, check it and unpack it.

    What was interrupted goes on where it stopped; what is there already is not fetched again. Proxies are
    taken from the environment: http_proxy, https_proxy, no_proxy.
    """
    from qzd_tools.catalogue import find, load
    from qzd_tools.download import Origin, download
    from qzd_tools.fetch import Patience

    entry = find(load(catalogue_file), name)
    directory = output or Path(name)
    origin = Origin(mirrors, from_directory, unverified)
    record = download(name, entry, directory, origin, Patience(stall_seconds=stall, attempts=attempts))
    say(f"{name}: {len(record.files)} files in {directory}" + ("" if record.verified else ", not verified"))
    if not record.verified:
        for path, checksum in record.files.items():
            say(f"  {path}: {checksum}")
    paths = " ".join(map(str, record.paths(directory)))
    say(f"next: qzd-tools convert {paths} {_flags(entry.convert)}".rstrip())
    document = msgspec.to_builtins(record)
    write_json(json_file, {"directory": str(directory), "convert": entry.convert, **document})


def _flags(options: dict[str, Any]) -> str:
    """Options of convert as they are typed."""
    words = []
    for key, value in options.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words.append(f"--{flag} {','.join(map(str, value)) if isinstance(value, list) else value}")
    return " ".join(words)
