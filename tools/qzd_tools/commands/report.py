"""`qzd-tools report`: measured figures as one page."""

from __future__ import annotations

from pathlib import Path

import click

from qzd_tools.commands import DIRECTORY, FILE, json_option, say, write_json

__all__ = ["command"]


@click.command()
@click.argument("result", nargs=-1, required=True, type=FILE)
@click.option("-o", "--output", type=FILE, default="report.html", show_default=True, help="The HTML file.")
@click.option("--images", type=DIRECTORY, help="Where samples are taken from.")
@click.option("--samples", type=click.IntRange(0), default=4, show_default=True, help="Images to show.")
@json_option
def command(
    result: tuple[Path, ...], output: Path, images: Path | None, samples: int, json_file: Path | None
) -> None:
    """Make a page of each RESULT that validate, quantize and benchmark wrote with --json.

    The HTML file needs nothing beside it; the same tables stand in a Markdown file next to it. Results are
    joined by the digest of the bundle that they are about.
    """
    from qzd_tools.data.images import list_images
    from qzd_tools.report import write_report

    html, markdown = write_report(result, output, list_images(images) if images else (), samples)
    say(f"written: {html} ({html.stat().st_size / 1e3:.0f} kB) and {markdown}")
    write_json(json_file, {"html": str(html), "markdown": str(markdown), "results": [str(r) for r in result]})
