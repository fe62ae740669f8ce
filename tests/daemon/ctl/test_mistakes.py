"""Each mistake at the command line, and the message that answers it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from qzd_client.control import ControlClient
from qzd_client.curve import write_pair
from qzd_client.requests import Status
from qzd_daemon.ctl.silence import why_quiet
from support.configuration import model, publish, stream, table
from support.processes import Daemon
from support.tiny_model import paint, write_tiny_bundle
from support.videos import write_clip

CONFIG = (
    publish("ENDPOINT", "tcp://127.0.0.1:*")
    + table("control", bind=("ipc://{directory}/control", "tcp://127.0.0.1:*"))
    + table("security", server_key="{directory}/server.key", authorized_keys="{directory}/authorised")
    + model(bundle="{directory}/tiny")
    + stream("gate", "{directory}/clip.mp4")
    + stream("mine", "{directory}/clip.mp4", loop=True, max_fps=20)
)
COMMAND = (sys.executable, "-c", "from qzd_daemon.ctl.main import main; main()")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a daemon runs that asks for keys on TCP; alice's is authorised, bob's is not."""
    directory = tmp_path_factory.mktemp("mistakes")
    (directory / "authorised").mkdir()
    for name in ("server", "other", "alice", "bob"):
        write_pair(directory / f"{name}.key")
    (directory / "authorised/alice.pub").write_bytes((directory / "alice.pub").read_bytes())
    for version in ("1", "2"):
        write_tiny_bundle(directory / "tiny" / version, version="7")
    write_clip(directory / "clip.mp4", [paint((0, 0, "red"))] * 5)
    process = Daemon(directory, CONFIG.format(directory=directory)).ready()
    yield directory
    process.kill()


@pytest.fixture(scope="module")
def status(directory: Path) -> Status:
    with ControlClient(f"ipc://{directory}/control") as client:
        return client.status()


@pytest.fixture
def other_program() -> Iterator[Callable[[bytes | None], str]]:
    """Start a TCP server that says something to each connection, or ends it, or does not even accept."""
    servers: list[socket.socket] = []

    def start(said: bytes | None) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)
        if said is not None:
            threading.Thread(target=answer, args=(server, said), daemon=True).start()
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"

    def answer(server: socket.socket, said: bytes) -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass

    yield start
    for server in servers:
        server.close()


def qzdctl(*arguments: object, **environment: str) -> tuple[int, str]:
    """Run it to its end; returns its exit code and stderr."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=variables,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "status", "streams", "models", "devices", "snapshot", "self-test", "reload",
        "swap tiny 1", "rollback tiny", "unload tiny", "load more /bundle",
    ],
)  # fmt: skip
def test_command_when_nothing_listens_says_so(tmp_path: Path, command: str) -> None:
    code, said = qzdctl(*command.split(), QZD_CONTROL=f"ipc://{tmp_path}/control")
    assert code == 3
    assert f"ipc://{tmp_path}/control: nothing listens there" in said
    assert "To fix: start qzd" in said


@pytest.mark.parametrize("command", ["infer", "record"])
def test_other_command_when_nothing_listens_says_so(tmp_path: Path, command: str) -> None:
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    arguments: dict[str, list[object]] = {
        "infer": [tmp_path / "image.png"],
        "record": [tmp_path / "out", "--seconds", "0"],
    }
    code, said = qzdctl("--endpoint", "tcp://127.0.0.1:1", command, *arguments[command])
    assert (code, "tcp://127.0.0.1:1: nothing listens there" in said) == (3, True)


def test_command_when_no_local_daemon_runs_names_all_endpoints_it_has_tried() -> None:
    code, said = qzdctl("status")
    assert code == 3
    assert "nothing listens on ipc:///run/qzd/control or tcp://127.0.0.1:5562" in said


KEYS = ("--key", "{d}/{key}", "--server-key", "{d}/{server}")


@pytest.mark.parametrize(
    ("key", "server", "expected"),
    [
        (None, None, "it asks for keys, and none are given"),
        ("alice.key", "other.pub", "other.pub is not its public key"),
        ("bob.key", "server.pub", "bob.key is not authorised"),
        ("alice.pub", "server.pub", "alice.pub: it is the public half of a pair"),
        ("none.key", "server.pub", "none.key: cannot be read: No such file"),
    ],
)
@pytest.mark.parametrize("name", ["control", "publish"])
def test_command_when_keys_do_not_fit_says_which(
    directory: Path, status: Status, name: str, key: str | None, server: str | None, expected: str
) -> None:
    keys = ("--key", directory / key, "--server-key", directory / str(server)) if key else ()
    command = ("status",) if name == "control" else ("tail",)
    code, said = qzdctl("--endpoint", status.endpoints[name][1], *keys, *command)
    assert (code, expected in said) == (3, True), said


def test_command_when_keys_fit_is_done(directory: Path, status: Status) -> None:
    keys = ("--key", directory / "alice.key", "--server-key", directory / "server.pub")
    assert qzdctl("--endpoint", status.endpoints["control"][1], *keys, "status") == (0, "")
    assert qzdctl("--endpoint", status.endpoints["control"][0], *keys, "status") == (0, "")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what listens there is not ZeroMQ"),
        (b"", "it ends each connection at once"),
        (None, "it accepts connections and sends nothing"),
    ],
    ids=["another protocol", "ends", "silent"],
)
def test_command_when_another_program_listens_says_so(
    other_program: Callable[[bytes | None], str], said: bytes | None, expected: str
) -> None:
    code, told = qzdctl("--endpoint", other_program(said), "status")
    assert (code, expected in told) == (3, True), told


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("tcp://host.invalid:5562", "the host's name is not known"),
        ("tcp://127.0.0.1:port", "not an endpoint"),
        ("tcp://127.0.0.1:99999", "not an endpoint"),
        ("localhost:5562", "not an endpoint"),
    ],
)
def test_command_when_the_endpoint_is_wrong_says_so(endpoint: str, expected: str) -> None:
    code, said = qzdctl("--endpoint", endpoint, "status")
    assert (code, expected in said) == (3, True), said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("stauts", "To fix: did you mean `qzdctl status`?"),
        ("status --jsno", "Did you mean '--json'"),
        ("swap tiny", "missing argument 'VERSION'\n  Wanted: qzdctl swap [OPTIONS] MODEL VERSION"),
        ("tail --count many", "To fix: see `qzdctl tail --help`"),
    ],
)
def test_qzdctl_when_used_wrongly_says_what_to_do(arguments: str, expected: str) -> None:
    code, said = qzdctl(*arguments.split())
    assert (code, expected in said) == (2, True), said


def test_swap_when_the_version_does_not_exist_names_those_that_do(directory: Path) -> None:
    code, said = qzdctl("swap", "tiny", "7", QZD_CONTROL=f"ipc://{directory}/control")
    assert code == 2
    assert "no version '7'" in said
    assert "Wanted: one of 1, 2" in said


def test_models_show_the_version_that_swap_takes(directory: Path, status: Status) -> None:
    shown = status.models[0].directory
    assert shown == "2"
    assert qzdctl("swap", "tiny", shown, QZD_CONTROL=f"ipc://{directory}/control") == (0, "")


@pytest.mark.parametrize(
    ("stream", "expected"),
    [("gate", "stream gate has ended"), ("nosuch", "there is no stream nosuch; there are gate, mine")],
)
def test_tail_when_it_is_connected_and_nothing_comes_says_why(
    directory: Path, stream: str, expected: str
) -> None:
    sockets = {"QZD_DETECTIONS": f"ipc://{directory}/detections", "QZD_CONTROL": f"ipc://{directory}/control"}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **sockets}
    with subprocess.Popen(
        [*COMMAND, "tail", "--stream", stream], stderr=subprocess.PIPE, text=True, env=environment
    ) as tail:
        assert tail.stderr is not None
        said = tail.stderr.readline()
        tail.kill()
    assert f"connected to ipc://{directory}/detections" in said
    assert expected in said


@pytest.mark.parametrize(
    ("problems", "expected"),
    [
        (["it is starting", "compiling parts, 12 s"], "and it is starting; compiling parts, 12 s"),
        ([], "and nothing yet: stream gate has ended: end of file"),
    ],
)
def test_why_quiet_names_the_cause(status: Status, problems: list[str], expected: str) -> None:
    gate = msgspec.structs.replace(status.streams[0], state="ended", reason="end of file")
    asked = msgspec.structs.replace(status, problems=problems, streams=[gate])
    assert why_quiet(asked, ["gate"]) == expected


def test_tail_when_what_it_follows_ends_says_so(tmp_path: Path, daemon: Callable[..., Daemon]) -> None:
    write_tiny_bundle(tmp_path / "tiny")
    write_clip(tmp_path / "clip.mp4", [paint((0, 0, "red"))] * 3)
    config = publish(wait_for_subscribers=1) + model(bundle="{directory}/tiny")
    served = daemon((config + stream("gate", "{directory}/clip.mp4")).format(directory=tmp_path)).ready()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [*COMMAND, "--endpoint", served.endpoint, "tail", "--stream", "gate"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as tail:
        assert tail.stderr is not None
        lines = iter(tail.stderr.readline, "")
        assert any("gate has ended; Ctrl-C stops waiting" in line for line in lines)
        tail.kill()
