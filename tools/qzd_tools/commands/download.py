"""`qzd-tools download`: a model of the catalogue, checked and unpacked."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
import msgspec

from qzd_ext.errors import UsageError
from qzd_ext.options import Finite
from qzd_tools.commands import DIRECTORY, json_option, say, write_json
from qzd_tools.commands.catalogue import catalogue_option, load_checked
from qzd_tools.commands.convert import command as convert_command

__all__ = ["command", "origin_options"]


def _addresses(_context: click.Context, _option: click.Parameter, found: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse what is no address: it would be passed over for the catalogue's own."""
    for address in found:
        if not address.startswith(("http://", "https://")):
            raise UsageError(f"--mirror {address}: neither http nor https", wanted="such as http://host/models")
    return found


def origin_options(function: Any) -> Any:
    """Add the options that say where files are taken from."""
    for option in (
        click.option("--mirror", "mirrors", multiple=True, callback=_addresses,
                     help="Tried first: MIRROR/NAME/FILE."),
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
    from qzd_tools.download.catalogue import find
    from qzd_tools.download.http import Patience
    from qzd_tools.download.run import Origin, download

    entry = find(load_checked(catalogue_file), name)
    directory = output or Path(name)
    origin = Origin(mirrors, from_directory, unverified)
    record = download(name, entry, directory, origin, Patience(stall_seconds=stall, attempts=attempts))
    say(f"{name}: {len(record.files)} files in {directory}" + ("" if record.verified else ", not verified"))
    if not record.verified:
        for path, checksum in record.files.items():
            say(f"  {path}: {checksum}")
    words = [*map(str, record.paths(directory)), *_flags(entry.convert)]
    say(f"next: qzd-tools convert {shlex.join(words)}")
    document = msgspec.to_builtins(record)
    write_json(json_file, {"directory": str(directory), "convert": entry.convert, **document})


def _flags(options: dict[str, Any]) -> list[str]:
    """Options of convert as they are typed."""
    known = {param.name: param for param in convert_command.params}
    words = []
    for key, value in options.items():
        if isinstance(value, bool):
            words += (known[key].opts if value else known[key].secondary_opts)[:1]
        else:
            words += [known[key].opts[0], _typed(value, "/" if key == "masks" else ",")]
    return words


def _typed(value: Any, between: str) -> str:
    return between.join(_typed(one, ",") for one in value) if isinstance(value, list) else str(value)
