"""Notifications to systemd, over a real notify socket."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from qzd_client import messages
from qzd_client.subscriber import Client
from qzd_daemon.config.schema import PublishConfig
from qzd_daemon.server.publisher import Publisher
from qzd_daemon.system.systemd import inherited_sockets, more_time, notify, watchdog_interval
from qzd_daemon.transport.listener import Listener


@pytest.mark.parametrize("abstract", [False, True])
def test_notify_when_systemd_listens_sends_the_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    name = f"qzd-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}" if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else name)
        notify("READY=1", "STATUS=serving")
        listener.settimeout(5)
        assert listener.recv(100) == b"READY=1\nSTATUS=serving"


def test_notify_when_systemd_did_not_start_us_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")


def test_notify_when_systemd_is_gone_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify("READY=1")


def test_notify_when_systemd_does_not_read_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
    ):
        listener.bind(str(tmp_path / "notify"))
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # its queue is full
            while True:
                other.sendto(b"X=1", str(tmp_path / "notify"))
        notify("STATUS=serving")


@pytest.mark.parametrize(
    ("microseconds", "pid", "expected"),
    [
        ("3000000", None, 3.0),
        ("", None, None),
        ("3000000", "1", None),
        ("soon", None, None),
        ("0", None, None),
    ],
)
def test_watchdog_interval_when_systemd_watches_is_in_seconds(
    monkeypatch: pytest.MonkeyPatch, microseconds: str, pid: str | None, expected: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.setenv("WATCHDOG_PID", pid or str(os.getpid()))
    assert watchdog_interval() == expected


def test_more_time_asks_while_it_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with more_time(60):
            assert listener.recv(100) == b"EXTEND_TIMEOUT_USEC=15000000"


ACTIVATED = """
import os, socket, sys
listener = socket.socket(getattr(socket, sys.argv[1]))
listener.bind(sys.argv[2] if sys.argv[1] == "AF_UNIX" else (sys.argv[2], 0))
listener.listen()
os.dup2(listener.fileno(), 3)
os.environ.update(LISTEN_PID=str(os.getpid() + int(sys.argv[3])), LISTEN_FDS="1")
from qzd_daemon.system.systemd import inherited_sockets
print(*inherited_sockets(), "LISTEN_FDS" in os.environ)
"""


@pytest.mark.parametrize(
    ("family", "address", "other", "expected"),
    [
        ("AF_UNIX", "PATH", 0, "ipc://PATH False"),
        ("AF_INET", "127.0.0.1", 0, "tcp://127.0.0.1:"),
        ("AF_INET6", "::1", 0, "tcp://[::1]:"),
        ("AF_UNIX", "PATH", 1, "False"),
    ],
)
def test_inherited_sockets_when_systemd_hands_one_over_are_its_endpoint(
    tmp_path: Path, family: str, address: str, other: int, expected: str
) -> None:
    path = str(tmp_path / "s")
    command = [sys.executable, "-c", ACTIVATED, family, address.replace("PATH", path), str(other)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.startswith(expected.replace("PATH", path))


def test_inherited_sockets_when_systemd_did_not_start_us_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    assert inherited_sockets() == {}


def test_publish_on_an_inherited_socket_reaches_who_connected_before(tmp_path: Path) -> None:
    path = tmp_path / "detections"
    endpoint = f"ipc://{path}"
    with socket.socket(socket.AF_UNIX) as inherited:
        inherited.bind(str(path))
        inherited.listen()
        with Client(endpoint) as client:  # nobody accepts yet
            listener = Listener(inherited={endpoint: inherited.fileno()})
            publisher = Publisher(PublishConfig(bind=(endpoint,), heartbeat_ms=50), listener)
            assert publisher.endpoints == (endpoint,)
            listener.start()
            publisher.start()
            assert publisher.wait_for_subscriptions(1, 5)
            publisher.publish(
                messages.stream_topic("gate"), messages.StreamState(stream="gate", state="running")
            )
            event = client.receive(5)
            publisher.close()
            listener.close()
    assert isinstance(event, messages.StreamState)
    assert path.exists()  # it is systemd's
