"""A progress bar on a terminal, and silence elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

__all__ = ["byte_progress", "progress", "watched"]


def watched() -> bool:
    """Whether somebody sees what goes to stderr; Python has none where it was closed, as by `2>&-`."""
    return bool(sys.stderr and sys.stderr.isatty())


@contextlib.contextmanager
def progress(title: str, total: int | None = None) -> Iterator[Callable[[str], None]]:
    """Show a bar while the block runs.

    Yields
    ------
    callable
        Call it with a short text when one more of `total` is done; the text stands at the bar's end.
    """
    if not watched():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),  # names of layers have brackets
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total, text="")
        yield lambda text: bar.update(task, advance=1, text=text)


@contextlib.contextmanager
def byte_progress(title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show a bar with bytes, speed and the time that is left while the block runs.

    Yields
    ------
    callable
        Call it with the number of bytes that are there.
    """
    if not watched():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda there: bar.update(task, completed=there)
