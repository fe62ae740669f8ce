"""The ledger of steps that are done, and of steps whose results have changed since."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qzd_ext.errors import UsageError
from qzd_tools.prepare.ledger import Ledger, open_ledger


def run(directory: Path, inputs: str = "a", content: str = "made") -> bool:
    """Do a step that writes a file; whether it was done now."""
    with open_ledger(directory) as ledger:
        out = directory / "out.txt"
        remark = ledger.step("write", {"inputs": inputs}, [out], lambda: out.write_text(content) and "well")
        assert remark == "well"
        return ledger.fresh["write"]


def test_a_step_is_not_done_again(tmp_path: Path) -> None:
    assert [run(tmp_path / "x"), run(tmp_path / "x")] == [True, False]


@pytest.mark.parametrize("damage", ["changed", "gone", "forgotten", "scrambled", "bytes"])
def test_a_step_is_done_again_when_its_output_or_record_is_not_what_it_was(
    tmp_path: Path, damage: str
) -> None:
    run(tmp_path / "x")
    out, record = tmp_path / "x" / "out.txt", tmp_path / "x" / "prepare.json"
    match damage:
        case "changed":
            out.write_text("edited")
        case "gone":
            out.unlink()
        case "forgotten":
            record.unlink()
        case "scrambled":
            record.write_text('{"write": ')
        case "bytes":
            record.write_bytes(b'{"write": {"inputs": {"a": "\xff"}}}')
    assert run(tmp_path / "x")
    assert out.read_text() == "made"


def test_a_step_is_done_again_when_its_inputs_are_others(tmp_path: Path) -> None:
    run(tmp_path / "x")
    assert run(tmp_path / "x", inputs="b")
    assert not run(tmp_path / "x", inputs="b")


def test_a_step_that_failed_is_not_on_record(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_ledger(tmp_path / "x") as ledger:
        ledger.step("write", {}, [], lambda: 1 // 0)
    with open_ledger(tmp_path / "x") as ledger:
        assert not ledger.is_done("write", {})


def test_a_bundle_that_was_edited_is_made_again(tmp_path: Path, tiny_bundle: Path) -> None:
    def copy(ledger: Ledger) -> None:
        target = ledger.directory / "bundle"
        shutil.rmtree(target, ignore_errors=True)
        ledger.step("copy", {}, [target], lambda: shutil.copytree(tiny_bundle, target))

    with open_ledger(tmp_path / "x") as ledger:
        copy(ledger)
    (tmp_path / "x" / "bundle" / "labels.txt").write_text("edited")
    with open_ledger(tmp_path / "x") as ledger:
        assert not ledger.is_done("copy", {})


def test_open_ledger_refuses_a_directory_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="something else is there"), open_ledger(tmp_path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_open_ledger_refuses_while_another_has_it(tmp_path: Path) -> None:
    with (
        open_ledger(tmp_path / "x"),
        pytest.raises(UsageError, match="another process"),
        open_ledger(tmp_path / "x"),
    ):
        pass
