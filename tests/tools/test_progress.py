"""Progress bars on a terminal, and no output elsewhere."""

from __future__ import annotations

import contextlib
import os
import pty
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import pytest

from qzd_tools.progress import byte_progress, progress

Bar = Callable[[str, int], AbstractContextManager[Callable[..., None]]]


@pytest.mark.parametrize("bar", [progress, byte_progress])
def test_nothing_is_shown_when_stderr_is_closed_or_no_terminal(
    bar: Bar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "log").open("w") as log:
        for stderr in (None, log):
            monkeypatch.setattr("sys.stderr", stderr)
            show(bar)
    assert (tmp_path / "log").read_text() == ""


@pytest.mark.parametrize(("bar", "words"), [(progress, "2/3"), (byte_progress, "2/3 bytes")])
def test_a_bar_is_shown_on_a_terminal(bar: Bar, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        with os.fdopen(theirs, "w") as stderr:
            monkeypatch.setattr("sys.stderr", stderr)
            show(bar)
        shown = b"".join(everything(terminal)).decode()
    assert "painting [/a]" in shown
    assert words in shown


def everything(terminal: BinaryIO) -> Iterator[bytes]:
    """Yield what comes in pieces, up to EIO: then the other end is closed, and nothing is left."""
    with contextlib.suppress(OSError):
        while True:
            yield os.read(terminal.fileno(), 1 << 16)


def show(bar: Bar) -> None:
    with bar("painting [/a]", 3) as step:
        if bar is progress:
            step("one")
            step("two")
        else:
            step(2)
