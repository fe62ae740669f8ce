"""Measured figures as a page that stands alone, and as Markdown.

`write_report` is the whole way: `results` reads, `tables` and `plots` arrange, `samples` draws, two
templates say where things stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2

from qzd_ext.errors import DataError
from qzd_tools.files import write_whole
from qzd_tools.report.plots import all_plots
from qzd_tools.report.results import Results, read_results
from qzd_tools.report.samples import Sample, sample_images
from qzd_tools.report.tables import all_tables, summary, verdict

__all__ = ["read_results", "write_report"]

TEMPLATES = {".html": "report.html.jinja", ".md": "report.md.jinja"}


def write_report(
    results: Sequence[Path], output: Path, images: Sequence[Path] = (), samples: int = 4
) -> tuple[Path, Path]:
    """Write a report of result files.

    Parameters
    ----------
    results : sequence of Path
        What `validate`, `quantize` and `benchmark` wrote with `--json`.
    output : Path
        The HTML file, with or without its suffix; the Markdown stands beside it.
    images : sequence of Path
        To take samples from.
    samples : int
        How many.

    Returns
    -------
    html, markdown : Path

    Raises
    ------
    DataError
        A result file cannot be read, or the results cannot be compared; there are images, and not two
        bundles to show them through.
    """
    found = read_results(results)
    content = {
        "name": found.original.name,
        "summary": summary(found),
        "verdict": verdict(found),
        "tables": all_tables(found),
        "plots": all_plots(found),
        "samples": _samples(found, images, samples),
        "results": found,
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__name__, "."),
        autoescape=jinja2.select_autoescape(("html.jinja",)),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    written = []
    for suffix, template in TEMPLATES.items():
        path = output.with_name(_stem(output.name) + suffix)
        text = environment.get_template(template).render(content)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode(errors="backslashreplace"))  # names of files are any bytes
        written.append(path)
    return written[0], written[1]


def _stem(name: str) -> str:
    """Without the suffix of a page; `.2` of a version is none."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and stem and suffix.lower() in ("html", "htm", "md") else name


def _samples(found: Results, images: Sequence[Path], count: int) -> list[Sample]:
    if not images or not count:
        return []
    if found.smallest is None:
        raise DataError("the results are of one bundle, and samples show two", fix="leave out the images")
    return sample_images(found.original.bundle(), found.smallest.bundle(), images, count)
