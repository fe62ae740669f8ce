"""Run `qzdctl keygen`: make a pair of CURVE keys."""

from __future__ import annotations

from pathlib import Path

import click

from qzd_client.curve import write_pair

__all__ = ["keygen"]


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
def keygen(path: Path) -> None:
    """Make a pair of CURVE keys: PATH, and its public half.

    Writes the secret key to PATH with mode 0600, and the public key beside it with the suffix .pub. A
    client's public key goes into the daemon's `authorized_keys`, the daemon's public key to the clients.
    """
    public = write_pair(path)
    click.echo(f"{path}: the secret key, mode 0600; keep it here")
    click.echo(f"{public}: the public key; copy it to the other side")
