"""`qzd-tools`: exit codes, messages, signals, and what it imports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from qzd_ext.errors import DataError, GateError, UsageError
from qzd_tools import cli
from support.processes import run_python
from support.waiting import until


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """`qzd-tools boom` raises what it is told to."""

    def make(error: BaseException) -> None:
        @click.command()
        def boom() -> None:
            raise error

        monkeypatch.setattr(cli.cli, "get_command", lambda ctx, name: boom)

    return make


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (GateError("too low"), 1, "too low"),
        (UsageError("no such thing", wanted="another", fix="do this"), 2, "To fix: do this"),
        (DataError("broken.jpg"), 3, "broken.jpg"),
        (FileNotFoundError(2, "No such file or directory", "/x"), 3, "/x: No such file"),
        (KeyboardInterrupt(), 4, "interrupted"),
    ],
    ids=["gate", "usage", "data", "os", "ctrl-c"],
)
def test_main_gives_code_and_message_when_command_raises(
    raising: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    words: str,
) -> None:
    raising(error)
    assert cli.main(["boom"]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [["nope"], ["validate"], ["validate", "x", "--confidence", "7"]])
def test_main_gives_two_when_usage_is_wrong(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("qzd-tools: ")
    assert "To fix: " in said


def test_every_command_has_help_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    context = click.Context(cli.cli)
    names = cli.cli.list_commands(context)
    assert {"quantize", "validate"} <= set(names)
    for name in names:
        command = cli.cli.get_command(context, name)
        assert command is not None
        assert command.help, name
        if name != "demo":  # its result is a table and files of its own
            assert "--json" in {o for p in command.params for o in p.opts}, name


def test_help_imports_no_heavy_package() -> None:
    code = (
        "import sys; from qzd_tools.cli import main; main(['quantize', '--help']); "
        "heavy = {'nncf', 'openvino', 'pycocotools', 'onnx', 'torch'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = run_python(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_telemetry_is_off_when_tools_are_imported_after_openvino() -> None:
    code = (
        "import openvino, qzd_tools\n"
        "from openvino.tools.ovc import telemetry_utils as t\n"
        "assert t.tm.__name__.endswith('telemetry_stub'), t.tm\n"
        "import sys\nassert sys.modules['openvino_telemetry'] is None\n"
    )
    done = run_python(code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_main_exits_with_four_when_signalled(tmp_path: Path, number: signal.Signals) -> None:
    code = (
        "import sys, time, click\nfrom pathlib import Path\nfrom qzd_tools import cli\n"
        "@click.command()\ndef wait():\n    Path(sys.argv[1]).touch()\n    time.sleep(30)\n"
        "cli.cli.get_command = lambda ctx, name: wait\nsys.exit(cli.main(['wait']))\n"
    )
    ready = tmp_path / "ready"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(ready)], stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        until(lambda: ready.exists() or process.poll() is not None)
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 4
    assert "interrupted" in err
    assert "Traceback" not in err


def test_signals_after_the_first_do_not_disturb_the_cleaning_up(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, click\nfrom qzd_tools import cli\n"
        "@click.command()\ndef work():\n    try:\n        os.kill(os.getpid(), signal.SIGINT)\n"
        "    finally:\n        os.kill(os.getpid(), signal.SIGINT)\n        print('cleaned')\n"
        "cli.cli.get_command = lambda ctx, name: work\ncode = cli.main(['work'])\n"
        "os.kill(os.getpid(), signal.SIGTERM)\nsys.exit(code)\n"
    )
    done = run_python(code)
    assert (done.returncode, done.stdout) == (4, "cleaned\n")
    assert done.stderr.strip() == "qzd-tools: interrupted; nothing half-written was left"


def test_an_interrupt_is_told_as_one_when_it_comes_out_as_another_error() -> None:
    """As it does while OpenVINO is imported."""
    code = (
        "import os, signal, sys, click\nfrom qzd_tools import cli\n"
        "@click.command()\ndef work():\n    try:\n        os.kill(os.getpid(), signal.SIGINT)\n"
        "    except KeyboardInterrupt as error:\n        raise ImportError('failed') from error\n"
        "cli.cli.get_command = lambda ctx, name: work\nsys.exit(cli.main(['work']))\n"
    )
    done = run_python(code)
    assert done.returncode == 4
    assert done.stderr == "qzd-tools: interrupted; nothing half-written was left\n"


@pytest.mark.parametrize("json_to", [[], ["--json", "-"]])
def test_work_goes_on_to_its_end_when_nobody_reads_on(tmp_path: Path, json_to: list[str]) -> None:
    code = (
        "import sys, click\nfrom pathlib import Path\nfrom qzd_tools import cli\n"
        "from qzd_tools.commands import json_option, say, write_json\n"
        "@click.command()\n@json_option\ndef work(json_file):\n"
        "    [say('line') for _ in range(9)]\n    write_json(json_file, {})\n    Path(sys.argv[1]).touch()\n"
        "cli.cli.get_command = lambda ctx, name: work\nsys.exit(cli.main(['work', *sys.argv[2:]]))\n"
    )
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", code, str(tmp_path / "done"), *json_to]
    with os.fdopen(write, "wb") as nobody:
        assert subprocess.run(command, stdout=nobody, stderr=nobody, check=False).returncode == 0
    assert (tmp_path / "done").exists()


def test_work_goes_on_when_a_label_has_letters_that_the_terminal_lacks() -> None:
    code = (
        "import sys, click\nfrom qzd_tools import cli\nfrom qzd_tools.commands import say\n"
        "sys.stdout.reconfigure(encoding='latin-1')\n"
        "cli.cli.get_command = lambda ctx, name: click.command()(lambda: say('label \\u7ea2'))\n"
        "sys.exit(cli.main(['work']))\n"
    )
    done = run_python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "label \\u7ea2\n", "")


def test_json_goes_to_stdout_alone_when_it_is_a_dash(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", str(tiny_bundle), "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["format"] == "bundle"
    assert "tiny" in captured.err


def test_json_is_refused_before_the_work_when_it_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["inspect", str(tmp_path / "no bundle"), "--json", str(tmp_path / "file" / "x")]) == 2
    assert "file may not be written to" in capsys.readouterr().err


def test_json_makes_its_directory(tiny_bundle: Path, tmp_path: Path) -> None:
    assert cli.main(["inspect", str(tiny_bundle), "--json", str(tmp_path / "new" / "x.json")]) == 0
    assert json.loads((tmp_path / "new" / "x.json").read_text())["verified"] is True
