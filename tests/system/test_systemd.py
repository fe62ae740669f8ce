"""On a Debian with its own systemd: started, reloaded, killed, hung, stopped, and started by its sockets."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import zmq

from qzd_client import messages
from qzd_client.curve import write_pair
from support.configuration import model, publish, stream, table
from support.debian import SUITE, Machine, run, unmet
from support.tiny_model import paint, write_tiny_bundle
from support.waiting import until

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
CONFIG = (
    publish("ipc:///run/{name}/detections", "tcp://127.0.0.1:*")
    + table("control", bind=("ipc:///run/{name}/control",))
    + table("security", server_key="$CREDENTIALS_DIRECTORY/{name}.server_key", authorized_keys="keys")
    + table("service", cache_dir="/var/cache/{name}")
    + model(bundle="/var/lib/qzd/models/tiny")
    + stream("belt", "/var/lib/qzd/belt", loop=True, max_fps=50)
)
HERE = "bookworm"
SHORT_WATCHDOG = "[Service]\nWatchdogSec=4\nTimeoutAbortSec=2\n"


@pytest.fixture(scope="module")
def machine(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Installed as docs/install.md says, with a model and a belt to look at."""
    if reason := unmet("systemd-nspawn", "nsenter"):
        pytest.skip(reason)
    machine = Machine(debian, tmp_path_factory.mktemp("machine") / "edge")
    if SUITE == HERE:
        install = f"umask 027; exec make -C {ROOT} install DESTDIR={machine.root} SYSTEMD=252"
        run("sh", "-c", install)  # the builder's umask is not the device's
    provide(machine.root)
    machine.boot()
    try:
        if SUITE != HERE:
            install_inside(machine)
        machine.run("systemd-sysusers")
        machine.run("systemd-tmpfiles", "--create")
        machine.run("chown", "-R", "qzd:qzd", "/var/lib/qzd")
        machine.run("systemctl", "daemon-reload")
        yield machine
    finally:
        machine.down()
        shutil.rmtree(machine.root)


def provide(root: Path) -> None:
    """Write a bundle, a belt, and keys."""
    write_tiny_bundle(root / "var/lib/qzd/models/tiny")
    belt = root / "var/lib/qzd/belt"
    belt.mkdir()
    for column in range(4):
        cv2.imwrite(str(belt / f"{column}.png"), paint((column, 2, "red")))
    (root / "etc/qzd/keys").mkdir(parents=True)
    write_pair(root / "etc/qzd/keys/client")
    (root / "etc/credstore").mkdir(exist_ok=True)
    for name in ("qzd", "qzd-second"):
        write_pair(root / f"etc/credstore/{name}.server_key")


def install_inside(machine: Machine) -> None:
    """On the device itself: another Debian has another Python, and wheels of its own."""
    left_out = shutil.ignore_patterns(".*", "build", "*.so", "demo-output")
    shutil.copytree(ROOT, machine.root / "src", ignore=left_out)
    apt = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--no-install-recommends")
    machine.run(*apt, "gcc", "libc6-dev", "make", "python3-dev", "python3-venv", timeout=300)
    machine.run("make", "-C", "/src", "install", timeout=300)


@pytest.fixture
def service(machine: Machine) -> Iterator[Machine]:
    """`qzd` is started, and afterwards stopped."""
    configure(machine)
    machine.run("systemctl", "reset-failed", "qzd.service", check=False)
    machine.run("systemctl", "start", "qzd")
    yield machine
    machine.run("systemctl", "stop", "qzd")


def configure(machine: Machine, *, name: str = "qzd", more: str = "") -> None:
    (machine.root / f"etc/qzd/{name}.toml").write_text(CONFIG.format(name=name) + more)


def journal(machine: Machine) -> list[dict[str, str]]:
    lines = machine.run("journalctl", "-u", "qzd", "-o", "json", "--no-pager").splitlines()
    return [json.loads(line) for line in lines]


def status(machine: Machine) -> dict[str, Any]:
    return dict(json.loads(machine.run("qzdctl", "status", "--json")))


def send(machine: Machine, signal: str) -> None:
    machine.run("systemctl", "kill", "--kill-whom=main", "--signal", signal, "qzd")


@pytest.mark.parametrize("mode", [None, 0o750])
def test_tmpfiles_put_a_configuration_where_there_is_none_and_leave_its_folder_as_it_is(
    tmp_path: Path, mode: int | None
) -> None:
    if reason := unmet("systemd-tmpfiles"):
        pytest.skip(reason)
    for name, content in (("passwd", "root:x:0:0::/:\nqzd:x:9:9::/:\n"), ("group", "root:x:0:\nqzd:x:9:\n")):
        (tmp_path / "etc").mkdir(exist_ok=True)
        (tmp_path / "etc" / name).write_text(content)
    template = tmp_path / "usr/local/share/qzd/qzd.toml"
    template.parent.mkdir(parents=True)
    template.write_text("new")
    if mode is not None:
        (tmp_path / "etc/qzd").mkdir(mode)
        (tmp_path / "etc/qzd/qzd.toml").write_text("old")
    run("systemd-tmpfiles", f"--root={tmp_path}", "--create", str(ROOT / "systemd/tmpfiles.conf"))
    written = tmp_path / "etc/qzd/qzd.toml"
    assert written.read_text() == ("new" if mode is None else "old")
    assert written.stat().st_mode & 0o777 == 0o640
    assert written.parent.stat().st_mode & 0o777 == (mode or 0o755)


def test_start_is_active_only_when_the_daemon_is_ready(service: Machine) -> None:
    active = int(service.show("ActiveEnterTimestampMonotonic"))
    ready = [entry for entry in journal(service) if entry["MESSAGE"].startswith("READY")][-1]
    assert int(ready["__MONOTONIC_TIMESTAMP"]) <= active + 50_000  # the journal stamps what it has received
    assert ready["LOGGER"] == "qzd_daemon.service"
    assert (ready["PRIORITY"], ready["SYSLOG_IDENTIFIER"]) == ("6", "qzd")
    until(lambda: re.search(r"\d+\.\d frames/s, 0 faults", service.show("StatusText")))


def test_start_runs_as_its_own_user_with_its_own_folders(service: Machine) -> None:
    pid = service.show("MainPID")
    assert service.run("stat", "-c", "%U", f"/proc/{pid}").strip() == "qzd"
    assert service.run("stat", "-c", "%a %U %G", "/run/qzd").strip() == "750 qzd qzd"
    assert service.run("stat", "-c", "%a %U %G", "/run/qzd/detections").strip() == "660 qzd qzd"
    assert "NoNewPrivs:\t1" in service.run("cat", f"/proc/{pid}/status")


def test_user_who_is_not_in_the_group_is_told_so(service: Machine) -> None:
    stranger = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    assert "permission denied" in service.run(*stranger, "qzdctl", "status", check=False)
    assert service.run("stat", "-c", "%a %U %G", "/etc/qzd/qzd.toml").strip() == "640 root qzd"


def test_start_with_a_wrong_configuration_fails_once_and_says_why(machine: Machine) -> None:
    configure(machine, more="[streams.second]\nsuorce = 1\n")
    machine.run("systemctl", "reset-failed", "qzd.service", check=False)
    assert "failed" in machine.run("systemctl", "start", "qzd", check=False)
    assert (machine.show("ActiveState"), machine.show("NRestarts")) == ("failed", "0")
    assert any("did you mean streams.second.source?" in entry["MESSAGE"] for entry in journal(machine))


def test_reload_of_a_good_configuration_changes_what_differs(service: Machine) -> None:
    pid = service.show("MainPID")
    more = '[streams.second]\nsource = "/var/lib/qzd/belt"\nmodel = "tiny"\nloop = true\nmax_fps = 5\n'
    configure(service, more=more)
    service.run("systemctl", "reload", "qzd")
    if service.show("Type") == "notify-reload":
        assert len(status(service)["streams"]) == 2
    until(lambda: len(status(service)["streams"]) == 2)
    assert sum(entry["MESSAGE"].startswith("reloaded:") for entry in journal(service)) == 1
    assert (service.show("MainPID"), service.show("ActiveState")) == (pid, "active")


def test_reload_of_a_bad_configuration_fails_and_leaves_it_serving(service: Machine) -> None:
    pid = service.show("MainPID")
    configure(service, more="[streams.second]\nsuorce = 1\n")
    said = service.run("systemctl", "reload", "qzd", check=False)
    assert "failed" in said
    send(service, "SIGHUP")  # past systemd's own check
    until(lambda: any("the old configuration is kept" in e["MESSAGE"] for e in journal(service)))
    assert any("did you mean streams.second.source?" in e["MESSAGE"] for e in journal(service))
    assert (service.show("MainPID"), service.show("ActiveState")) == (pid, "active")
    before = status(service)["published"]
    until(lambda: status(service)["published"] != before)


def test_kill_makes_systemd_start_it_again(service: Machine) -> None:
    pid = service.show("MainPID")
    send(service, "SIGKILL")
    until(lambda: service.show("MainPID") not in (pid, "0") and service.show("ActiveState") == "active")
    assert int(service.show("NRestarts")) == 1


def test_hang_is_ended_by_the_watchdog_and_it_comes_back(machine: Machine) -> None:
    configure(machine)
    dropin = machine.inside("/run/systemd/system/qzd.service.d/short.conf")
    dropin.parent.mkdir(parents=True)
    dropin.write_text(SHORT_WATCHDOG)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "qzd")
    try:
        pid = machine.show("MainPID")
        send(machine, "SIGSTOP")
        until(lambda: machine.show("MainPID") not in (pid, "0") and machine.show("ActiveState") == "active")
        assert any("Watchdog timeout" in entry["MESSAGE"] for entry in journal(machine))
    finally:
        machine.run("systemctl", "stop", "qzd")
        dropin.unlink()
        machine.run("systemctl", "daemon-reload")


def test_stop_ends_in_time_with_every_frame_accounted_for(service: Machine) -> None:
    frames = messages.detections_topic("belt", "tiny")
    last: dict[str, int] = {}
    first, stopped = 0, False
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.linger = 0
        subscriber.rcvtimeo = 20_000
        subscriber.subscribe(messages.PREFIX)
        subscriber.connect(f"ipc://{service.inside('/run/qzd/detections')}")
        while True:
            if last.get(frames, 0) >= first + 30 and not stopped:
                service.run("systemctl", "stop", "qzd")
                stopped = True
            topic, payload = subscriber.recv_multipart()
            message = messages.decode(payload)
            if isinstance(message, messages.Heartbeat):
                if message.state == "stopping":
                    break
                continue
            assert message.seq == last.get(topic.decode(), message.seq - 1) + 1
            last[topic.decode()] = message.seq
            first = first or last.get(frames, 0)
    assert stopped
    assert {topic: message.topics[topic] for topic in last} == last
    assert service.show("Result") == "success"  # "timeout" if TimeoutStopSec had passed


def test_sockets_start_it_on_the_first_connection(machine: Machine) -> None:
    configure(machine)
    machine.run("systemctl", "start", "qzd.socket")
    try:
        assert machine.show("ActiveState") == "inactive"
        assert machine.run("stat", "-c", "%a %U %G", "/run/qzd/control").strip() == "660 qzd qzd"
        machine.run("qzdctl", "status", check=False)  # it may give up before the model is compiled
        until(lambda: machine.show("ActiveState") == "active")
        assert status(machine)["streams"]
        machine.run("systemctl", "restart", "qzd")
        assert status(machine)["streams"]
    finally:
        machine.run("systemctl", "stop", "qzd.socket", "qzd.service")


def test_instances_run_beside_each_other(service: Machine) -> None:
    configure(service, name="qzd-second")
    (service.root / "etc/qzd/qzd-second.toml").rename(service.root / "etc/qzd/second.toml")
    service.run("systemctl", "start", "qzd@second")
    assert service.show("ActiveState", "qzd@second") == "active"
    endpoint = "ipc:///run/qzd-second/control"
    assert "belt" in service.run("qzdctl", "--endpoint", endpoint, "streams")
    assert "belt" in service.run("qzdctl", "streams")
    service.run("systemctl", "stop", "qzd@second")


def test_units_are_in_order_and_hardened(machine: Machine) -> None:
    units = ("qzd.service", "qzd.socket", "qzd@second.service")
    assert machine.run("systemd-analyze", "verify", *units) == ""
    said = machine.run("systemd-analyze", "security", "--no-pager", "qzd.service").splitlines()[-1]
    exposure = re.search(r"level for qzd.service: ([\d.]+)", said)
    assert exposure is not None, said
    print(said)
    assert float(exposure[1]) <= 2.5


def test_sigterm_from_elsewhere_is_an_end_and_no_failure(service: Machine) -> None:
    send(service, "SIGTERM")
    until(lambda: service.show("ActiveState") == "inactive")
    assert service.show("Result") == "success"
