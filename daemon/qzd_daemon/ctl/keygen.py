"""`qzdctl keygen`: a pair of CURVE keys."""

from __future__ import annotations

from pathlib import Path

import click

from qzd_client.curve import write_pair

__all__ = ["keygen"]


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
def keygen(path: Path) -> None:
    """Make a pair of keys: the secret one in PATH (mode 0600), the public one beside it, its suffix .pub.

    A client's public key goes into the daemon's `authorized_keys`, the daemon's public key to the clients.
    """
    public = write_pair(path)
    click.echo(f"{path}: the secret key, of mode 0600; it stays here")
    click.echo(f"{public}: the public key; give it to those who shall talk to you")
