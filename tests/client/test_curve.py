"""Key files: who may read them, and what the error says of a file that is not one."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import zmq

from qzd_client.curve import read_public, read_secret, write_pair
from qzd_client.errors import DataError, UsageError


def test_write_pair_makes_a_secret_that_nobody_else_reads_and_its_public_half(tmp_path: Path) -> None:
    public = write_pair(tmp_path / "me.key")
    assert (tmp_path / "me.key").stat().st_mode & 0o777 == 0o600
    assert read_public(public) == zmq.curve_public(read_secret(tmp_path / "me.key"))


@pytest.mark.parametrize("there", ["me.key", "me.pub"])
def test_write_pair_when_a_file_is_there_writes_nothing(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    with pytest.raises(UsageError, match=there):
        write_pair(tmp_path / "me.key")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(there, "precious")]


def test_write_pair_when_there_is_no_room_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(UsageError, match="cannot be written: File too large"):
            write_pair(tmp_path / "me.key")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_read_secret_when_others_may_read_it_refuses_it(tmp_path: Path) -> None:
    write_pair(tmp_path / "me.key")
    (tmp_path / "me.key").chmod(0o640)
    with pytest.raises(DataError, match="mode is 0640"):
        read_secret(tmp_path / "me.key")


def test_read_secret_when_systemd_guards_it_takes_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pair(tmp_path / "me.key")
    (tmp_path / "me.key").chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert len(read_secret(tmp_path / "me.key")) == 40


@pytest.mark.parametrize(
    "content", [b"", b"x" * 39, b"x" * 41, b"\xff" * 40, b" " * 40, b"#" * 40, b"x" * 10_000]
)
def test_read_secret_when_the_file_is_no_key_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "me.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(DataError, match="not a CURVE key"):
        read_secret(path)


def test_read_secret_when_there_is_none_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        read_secret(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["/", "", "me.pub"])
def test_write_pair_when_it_is_no_name_for_a_secret_key_says_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not a name for a secret key"):
        write_pair(Path(name) if name in ("/", "") else tmp_path / name)
    assert not list(tmp_path.iterdir())
