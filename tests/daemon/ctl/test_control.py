"""`qzdctl`'s commands as a person gives them, to a real daemon."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from qzd_daemon.ctl.main import cli
from qzd_daemon.ctl.tables import table
from support.configuration import model, publish, sockets, stream
from support.processes import Daemon
from support.tiny_model import encode, paint, write_tiny_bundle
from support.videos import write_clip

CONFIG = (
    publish()
    + sockets("control", "inference")
    + model(bundle="{directory}/tiny")
    + stream("clip", "{directory}/clip.mp4", loop=True, max_fps=50)
)
TCP = ("--endpoint", "tcp://127.0.0.1:1")
SOCKETS = ("detections", "control", "inference")
COMMAND = (sys.executable, "-c", "from qzd_daemon.ctl.main import main; main()")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a daemon runs, with a model of two versions."""
    directory = tmp_path_factory.mktemp("ctl")
    for version in ("1", "2"):
        write_tiny_bundle(directory / "tiny" / version, version=version)
    write_clip(directory / "clip.mp4", [paint((0, 0, "red"))] * 10)
    process = Daemon(directory, CONFIG.format(directory=directory)).ready()
    yield directory
    process.kill()


def qzdctl(directory: Path, *arguments: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        **{f"QZD_{name.upper()}": f"ipc://{directory}/{name}" for name in SOCKETS},
    }
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=timeout, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["status"], ["epoch", "control", "clip", "running", "tiny", "CPU"]),
        (["streams"], ["clip", "running"]),
        (["models"], ["tiny", "64x64", "CPU"]),
        (["devices"], ["CPU", "tiny"]),
        (["snapshot"], ["qzd/1/stream/clip/", "qzd.stream/1"]),
        (["self-test"], ["passed: tiny"]),
        (["reload"], ["reloaded"]),
        (["completion", "bash"], ["complete -o nosort -F _qzdctl_completion qzdctl"]),
    ],
)
def test_command_when_it_can_be_done_prints_what_a_person_reads(
    directory: Path, arguments: list[str], expected: list[str]
) -> None:
    done = qzdctl(directory, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert [word for word in expected if word not in done.stdout] == []


def test_orders_change_what_serves(directory: Path) -> None:
    told = [qzdctl(directory, *line).stdout for line in (("swap", "tiny", "1"), ("rollback", "tiny"))]
    assert f"{directory}/tiny/1" in told[0]
    assert f"{directory}/tiny/2" in told[1]
    assert qzdctl(directory, "load", "more", f"{directory}/tiny/1", "--device", "CPU").returncode == 0
    assert qzdctl(directory, "unload", "more").stdout == "more is unloaded\n"


def test_command_when_json_is_asked_for_prints_the_answer_as_it_came(directory: Path) -> None:
    status = json.loads(qzdctl(directory, "status", "--json").stdout)
    assert status["streams"][0]["name"] == "clip"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["swap", "none", "1"], 2, "there is no model 'none'"),
        (["swap", "tiny", "7"], 2, "there is no version '7'"),
        (["unload", "tiny"], 2, "it is used by clip"),
        (["--key", "x", "status"], 2, "one of --key and --server-key"),
        (["--key", "/no/x", "--server-key", "/no/y", *TCP, "status"], 3, "/no/x"),
        (["--endpoint", "nonsense", "status"], 3, "nonsense: cannot connect"),
        (["--endpoint", "", "status"], 3, "cannot connect"),
        (["infer", "/no/image.png"], 2, "does not exist"),
        (["swap", "tiny", "\udcff"], 2, "not UTF-8"),
        (["tail", "--rates", "--count", "1"], 2, "leave out --count"),
        (["keygen", "/"], 2, "not a name for a secret key"),
    ],
)
def test_command_when_it_cannot_be_done_says_why_by_words_and_exit_code(
    directory: Path, arguments: list[str], code: int, said: str
) -> None:
    done = qzdctl(directory, *arguments)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "--interval", "nan"],
        ["status", "--interval", "1e300"],
        ["replay", "x", "--speed", "nan"],
        ["replay", "x", "--speed", "1e-320"],
        ["record", "x", "--seconds", "inf"],
        ["tail", "--min-score", "nan"],
    ],
)
def test_command_when_a_number_is_none_that_it_can_take_says_so(arguments: list[str]) -> None:
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 2
    assert "Invalid value for" in done.output


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("inference", ["status"], "not the control socket"),
        ("control", ["infer", "{image}"], "not the inference or ingest socket"),
        ("detections", ["tail", "--snapshot", "--control", "{inference}"], "not the control socket"),
    ],
)
def test_command_when_its_endpoint_is_another_socket_says_so(
    directory: Path, tmp_path: Path, name: str, arguments: list[str], said: str
) -> None:
    cv2.imwrite(str(tmp_path / "image.png"), paint((1, 2, "red")))
    places = {"image": tmp_path / "image.png", "inference": f"ipc://{directory}/inference"}
    given = [argument.format(**places) for argument in arguments]
    done = qzdctl(directory, "--endpoint", f"ipc://{directory}/{name}", *given)
    assert (done.returncode, "Traceback" in done.stderr) == (3, False)
    assert said in done.stderr


def test_record_when_nothing_is_received_says_so_and_leaves_no_file(directory: Path, tmp_path: Path) -> None:
    nobody = ("--endpoint", f"ipc://{tmp_path}/nobody")
    done = qzdctl(directory, *nobody, "record", tmp_path / "recording", "--seconds", "0.1")
    assert (done.returncode, "nothing listens there" in done.stderr) == (3, True)
    assert not (tmp_path / "recording").exists()


def test_tail_when_messages_are_stale_shows_only_those_of_the_chosen_model(directory: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        qzdctl(directory, "tail", "--max-age", "0", "--model", "other", timeout=3)
    assert b"clip/tiny" not in (caught.value.stdout or b"")


def test_tail_when_nobody_reads_on_ends_in_silence(directory: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "--endpoint", f"ipc://{directory}/detections", "tail"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        tail.stdout.readline()
        tail.stdout.close()
        assert (tail.wait(20), tail.stderr.read()) == (0, b"")


@pytest.mark.parametrize("arguments", [["--version"], ["completion", "fish"]])
def test_command_when_its_output_has_no_room_says_so(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (3, b"qzdctl: standard output: No space left on device\n")


def test_status_when_watched_shows_it_again_and_again(directory: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        qzdctl(directory, "status", "--watch", "--interval", "0.1", "--json", timeout=4)
    assert caught.value.stdout is not None
    assert caught.value.stdout.count(b'"epoch"') > 1


def test_tail_when_rates_are_asked_for_tells_them_each_second(directory: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        qzdctl(directory, "tail", "--rates", timeout=5)
    assert b"frames/s, 1.0 found in each" in (caught.value.stdout or b"")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_infer_tells_and_draws_what_is_in_an_image(directory: Path, tmp_path: Path, suffix: str) -> None:
    image, drawn = tmp_path / f"image.{suffix}", tmp_path / "drawn.png"
    cv2.imwrite(str(image), paint((1, 2, "red")))
    done = qzdctl(directory, "infer", image, "--draw", drawn)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("red ")
    assert np.any(cv2.imread(str(drawn)) != cv2.imread(str(image)))


def test_infer_when_names_are_no_utf8_reads_and_writes_them(directory: Path, tmp_path: Path) -> None:
    image, drawn = (tmp_path / os.fsdecode(name) for name in (b"caf\xe9.bmp", b"th\xe9.png"))
    image.write_bytes(encode(paint((1, 2, "red")), "bmp"))
    done = qzdctl(directory, "infer", image, "--draw", drawn)
    assert (done.returncode, done.stderr) == (0, "")
    assert drawn.read_bytes().startswith(b"\x89PNG")


BMP_HEAD = b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 2_000_000, 4, 1, 24, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("content", [b"no image", BMP_HEAD])
def test_infer_when_the_file_is_no_image_says_so(directory: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text").write_bytes(content)
    done = qzdctl(directory, "infer", tmp_path / "text")
    assert (done.returncode, "not an image" in done.stderr) == (3, True)


def test_keygen_makes_a_pair_that_no_one_else_reads(directory: Path, tmp_path: Path) -> None:
    done = qzdctl(directory, "keygen", tmp_path / "me.key")
    assert done.returncode == 0
    assert (tmp_path / "me.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "me.pub").exists()


@pytest.mark.parametrize(
    ("program", "module", "words", "expected"),
    [
        ("qzdctl", "qzd_daemon.ctl.main", "qzdctl sw", "swap"),
        ("qzd", "qzd_daemon.cli", "qzd --check", "--check-config"),
        ("qzd-tools", "qzd_tools.cli", "qzd-tools qua", "quantize"),
    ],
)
def test_completion_of_each_program_completes(
    tmp_path: Path, program: str, module: str, words: str, expected: str
) -> None:
    """Bash reads the script, and its function asks the program itself."""
    script = CliRunner().invoke(cli, ["completion", "bash", "--program", program]).output
    (tmp_path / program).write_text(
        f"#!/bin/sh\nexec {sys.executable} -c "
        f"'import sys; sys.argv[0] = \"{program}\"; from {module} import main; sys.exit(main())'\n"
    )
    (tmp_path / program).chmod(0o755)
    typed = words.split()
    function = f"$(complete -p {program} | sed 's/.*-F //; s/ .*//')"
    ask = f"COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}; {function} {program}"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        ["bash", "-c", f'{script}\n{ask}\necho "${{COMPREPLY[@]}}"'],
        capture_output=True, text=True, env=environment, timeout=60, check=False,
    )  # fmt: skip
    assert expected in done.stdout.split(), done.stderr


@pytest.mark.parametrize("name", cli.commands)
def test_every_command_has_help(name: str) -> None:
    assert cli.commands[name].help
    assert all(o.help for o in cli.commands[name].params if isinstance(o, click.Option))


def test_table_when_cells_are_coloured_aligns_what_is_seen() -> None:
    text = table(("a", "b"), [(click.style("long", fg="red"), 1), ("x", 2)])
    assert [click.unstyle(line) for line in text.splitlines()] == ["a     b", "long  1", "x     2"]
