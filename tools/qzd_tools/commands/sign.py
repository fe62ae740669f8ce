"""`qzd-tools sign`: sign a bundle, so that daemons with the public key take no other."""

from __future__ import annotations

import os
from pathlib import Path

import click

from qzd_ext.errors import BundleError, DataError
from qzd_tools.commands import json_option, say, write_json

__all__ = ["command"]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--key", required=True, type=click.Path(path_type=Path), help="Secret key that `minisign -G` has written."
)
@click.option("--password", envvar="QZD_KEY_PASSWORD", help="Password of the key; default: ask for it.")
@json_option
def command(bundle: Path, key: Path, password: str | None, json_file: Path | None) -> None:
    """Sign BUNDLE with a key of minisign: write bundle.toml.minisig beside its bundle.toml.

    A daemon whose [security] bundle_keys has the public key takes only bundles that are signed. Plain
    `minisign -V` verifies the signature too. Every file is checked first.
    """
    from qzd_ext import bundle as bundles
    from qzd_ext import signature

    found = bundles.read(bundle)
    try:
        secret = signature.read_secret_key(key, password)
    except DataError as error:
        if password is not None or not error.found.endswith("has a password"):
            raise
        secret = signature.read_secret_key(key, click.prompt("Password", hide_input=True, err=True))
    text = (found.path / bundles.MANIFEST).read_bytes()
    comment = f"{found.manifest.name} version {found.manifest.version} {found.digest}"
    target = found.path / signature.SIGNATURE
    signed = signature.sign(text, secret, comment)
    try:
        temporary = target.with_suffix(".new")
        temporary.write_bytes(signed)
        os.replace(temporary, target)  # noqa: PTH105 - as bundles are put in place
    except OSError as error:
        raise BundleError(f"{target}: cannot be written: {error.strerror}") from error
    number = signature.key_number(signed)
    say(f"signed with the key {number}: {target}")
    write_json(json_file, {"bundle": str(found.path), "digest": found.digest, "key": number})
