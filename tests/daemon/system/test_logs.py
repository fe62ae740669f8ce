"""The formats of the log, and how repeated lines are folded."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qzd_daemon.system import logs
from qzd_daemon.system.logs import FOLD_AFTER, FOLD_SECONDS, Fold, LogFormat, set_up_logging
from support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fold(clock: Clock) -> Fold:
    return Fold(clock)


@pytest.fixture(autouse=True)
def _root() -> Iterator[None]:
    """Put pytest's own handlers back."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    for handler in root.handlers:
        if handler not in before:
            handler.close()
    root.handlers, root.level = before, level


def record(line: int, message: str, *values: object) -> logging.LogRecord:
    return logging.LogRecord(
        "qzd_daemon.engine.stream", logging.WARNING, "streams.py", line, message, values, None
    )


def test_fold_a_flood_writes_a_few_and_then_the_count(fold: Fold, clock: Clock) -> None:
    said = [fold.filter(record(1, "stream %s: damaged: %d", "gate", i)) for i in range(100)]
    assert said.count(True) == FOLD_AFTER
    clock.now = FOLD_SECONDS
    last = record(1, "stream %s: damaged: %d", "gate", 100)
    assert fold.filter(last)
    assert last.getMessage() == "stream gate: damaged: 100 (95 more like this in 300 s)"


def test_fold_a_flood_of_one_stream_leaves_the_others(fold: Fold) -> None:
    for _ in range(50):
        fold.filter(record(1, "stream %s: damaged", "gate"))
    assert fold.filter(record(1, "stream %s: damaged", "yard"))
    assert fold.filter(record(2, "stream %s: ended", "gate"))


def test_fold_a_flood_that_has_ended_is_told_with_the_next_message(fold: Fold, clock: Clock) -> None:
    for _ in range(8):
        fold.filter(record(1, "stream %s: damaged", "gate"))
    clock.now = 2 * FOLD_SECONDS
    other = record(2, "reloaded")
    assert fold.filter(other)
    assert other.getMessage() == "reloaded (3 more about gate were folded)"


def test_fold_floods_that_have_ended_are_told_in_one_sum(fold: Fold, clock: Clock) -> None:
    for camera in range(40):
        for _ in range(7):
            fold.filter(record(1, "stream %s: damaged", f"camera{camera}"))
    clock.now = 2 * FOLD_SECONDS
    other = record(2, "reloaded")
    assert fold.filter(other)
    assert other.getMessage() == "reloaded (80 more about 40 others were folded)"


def test_fold_a_camera_that_stays_away_is_told_of_each_five_minutes(fold: Fold, clock: Clock) -> None:
    said = 0
    for _ in range(4 * 60):
        clock.now += 15
        said += fold.filter(record(1, "stream %s: reconnecting", "gate"))
    assert said == FOLD_AFTER + 60 * 60 // 300 - 1


def test_fold_that_it_is_well_again_is_written(fold: Fold) -> None:
    for _ in range(50):
        fold.filter(record(1, "stream %s: %s", "gate", "reconnecting"))
    well = record(1, "stream %s: %s", "gate", "running")
    well.levelno = logging.INFO
    assert fold.filter(well)


def test_fold_what_is_rare_is_never_folded(fold: Fold, clock: Clock) -> None:
    for _ in range(50):
        clock.now += FOLD_SECONDS
        entry = record(1, "stream %s: reconnecting", "gate")
        assert fold.filter(entry)
        assert "more" not in entry.getMessage()


def test_text_has_time_level_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("info", "text")
    logging.getLogger("qzd_daemon.x").info("model %s: loaded", "ssd")
    assert capsys.readouterr().err.endswith(" INFO    model ssd: loaded\n")


def test_json_is_one_object_a_line_with_its_exception(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("info", "json")
    try:
        raise ValueError("a\nb")
    except ValueError:
        logging.getLogger("qzd_daemon.x").exception("it failed")
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["message"], line["logger"]) == ("error", "it failed", "qzd_daemon.x")
    assert "ValueError: a\nb" in line["exception"]


def test_level_leaves_out_what_is_below(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("warning", "text")
    logging.getLogger("qzd_daemon.x").info("loaded")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("form", [None, "journal"])
def test_journal_when_it_is_not_there_leaves_the_log_to_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, form: LogFormat | None
) -> None:
    monkeypatch.setattr(logs, "JOURNAL", "/nowhere")
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")  # of the shell that it was started from
    set_up_logging("info", form)
    logging.getLogger("qzd_daemon.x").info("loaded")
    said = capsys.readouterr().err
    assert said.endswith(" INFO    loaded\n")
    assert ("/nowhere: No such file or directory; the log goes to" in said) == (form is not None)


def test_text_when_a_value_has_lines_and_controls_cannot_look_like_a_record(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up_logging("info", "text")
    forged = "x\n2026-01-01 00:00:00.000 INFO    forged\r\x1b[2K\u202e\n  Wanted: a name"
    logging.getLogger("qzd_daemon.x").info("a message of %s", forged)
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.endswith(" INFO    a message of x")
    assert rest == ["  2026-01-01 00:00:00.000 INFO    forged\\r\\x1b[2K\\u202e", "  Wanted: a name"]


def test_journal_gets_fields_and_a_message_of_several_lines_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        journal.settimeout(5)
        monkeypatch.setattr(logs, "JOURNAL", str(tmp_path / "journal"))
        monkeypatch.setenv("JOURNAL_STREAM", f"{os.fstat(2).st_dev}:{os.fstat(2).st_ino}")
        set_up_logging("info", None)
        logging.getLogger("qzd_daemon.x").warning("found\n  wanted")
        data = journal.recv(4096)
    length = len("found\n  wanted").to_bytes(8, "little")
    assert b"MESSAGE\n" + length + b"found\n  wanted\n" in data
    assert b"PRIORITY=4\n" in data
    assert b"LOGGER=qzd_daemon.x\n" in data
    assert f"CODE_FUNC={sys._getframe().f_code.co_name}\n".encode() in data
