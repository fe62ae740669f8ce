"""`qzd-tools demo`: the whole path on a made-up factory."""

from __future__ import annotations

from pathlib import Path

import click

from qzd_tools.commands import DIRECTORY, say

__all__ = ["command"]


@click.command()
@click.option(
    "-o", "--output", type=DIRECTORY, default=Path("demo-output"), show_default=True, help="Where results go."
)
def command(output: Path) -> None:
    """Show the main job: a model, INT8, a daemon, and detections on a socket.

    Parts on a conveyor belt, drawn from a seed, stand for a user's own images; a small detector trained on
    them stands for a user's own model. Takes a minute or two and needs no network.
    """
    from qzd_tools.demo.run import run_demo

    run_demo(output, say)
