"""Who is served over TCP: what the configuration refuses before anything is bound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qzd_daemon.config.load import read_config
from qzd_ext.errors import ConfigError
from support.processes import Daemon

CONFIG = '[models.m]\nbundle = "b"\n[{table}]\nbind = ["{endpoint}"]\n'
KEYS = '[security]\nserver_key = "server.key"\nauthorized_keys = "keys"\n'


def read(tmp_path: Path, text: str) -> object:
    (tmp_path / "qzd.toml").write_text(text)
    return read_config(tmp_path / "qzd.toml")


@pytest.mark.parametrize("table", ["publish", "control", "inference", "ingest"])
@pytest.mark.parametrize(
    "endpoint", ["tcp://*:5561", "tcp://0.0.0.0:1", "tcp://[::]:1", "tcp://192.168.1.7:1", "tcp://eth0:1", "tcp://h:1"]
)
def test_read_config_when_an_open_address_has_no_keys_names_the_ways_out(
    tmp_path: Path, table: str, endpoint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, CONFIG.format(table=table, endpoint=endpoint))
    said = str(caught.value)
    assert f"{table}.bind: {endpoint}" in said
    assert "insecure = true" in said
    assert "qzdctl keygen" in said
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://127.0.0.1:5561", "tcp://127.8.9.1:1", "tcp://[::1]:1", "tcp://localhost:1", "tcp://lo:1", "ipc:///x/y"],
)
def test_read_config_when_an_address_is_this_machines_own_needs_no_keys(
    tmp_path: Path, endpoint: str
) -> None:
    assert read(tmp_path, CONFIG.format(table="publish", endpoint=endpoint))


@pytest.mark.parametrize("way_out", [KEYS, "[security]\ninsecure = true\n"])
def test_read_config_when_an_open_address_is_meant_takes_it(tmp_path: Path, way_out: str) -> None:
    assert read(tmp_path, CONFIG.format(table="publish", endpoint="tcp://*:5561") + way_out)


@pytest.mark.parametrize("line", KEYS.splitlines()[1:])
def test_read_config_when_one_kind_of_key_is_missing_asks_for_both(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match="Wanted: both"):
        read(tmp_path, CONFIG.format(table="publish", endpoint="tcp://127.0.0.1:1") + f"[security]\n{line}\n")


def test_read_config_when_the_key_is_a_credential_takes_it_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/qzd")
    keys = KEYS.replace('"server.key"', '"$CREDENTIALS_DIRECTORY/server.key"')
    (tmp_path / "qzd.toml").write_text(CONFIG.format(table="publish", endpoint="ipc:///x") + keys)
    security = read_config(tmp_path / "qzd.toml").security
    assert security.server_key == "/run/credentials/qzd/server.key"
    assert security.authorized_keys == str(tmp_path / "keys")


def test_daemon_when_it_would_serve_anyone_does_not_start(daemon: Callable[..., Daemon]) -> None:
    process = daemon(CONFIG.format(table="publish", endpoint="tcp://*:*"))
    assert process.wait() == 2
    assert "insecure = true" in process.log
    assert "Traceback" not in process.log
