"""What systemd is told, over a real notify socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from qzd_daemon.notify import notify, watchdog_interval


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
