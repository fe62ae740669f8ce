"""The directory of keys that may connect, read again whenever it changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qzd_client.curve import write_pair
from qzd_daemon.transport.authorized_keys import AuthorizedKeys
from qzd_ext.errors import DataError


def test_authorized_keys_when_the_directory_is_not_there_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        AuthorizedKeys(tmp_path / "nowhere")


def test_authorized_keys_when_a_key_goes_says_so_and_when_one_comes_does_not(tmp_path: Path) -> None:
    known = AuthorizedKeys(tmp_path)
    write_pair(tmp_path / "a.key")
    assert not known.read()
    (tmp_path / "a.pub").unlink()
    assert known.read()
    assert not known.read()


def test_authorized_keys_when_a_file_is_no_key_or_a_link_leads_nowhere_keeps_the_others(
    tmp_path: Path,
) -> None:
    known = AuthorizedKeys(tmp_path)
    write_pair(tmp_path / "a.key")
    known.read()
    (tmp_path / "b.pub").symlink_to(tmp_path / "nowhere")
    (tmp_path / "c.pub").write_bytes(b"#" * 40)
    assert not known.read()
    assert [problem.splitlines()[0].rpartition("/")[2] for problem in known.problems] == [
        "b.pub: cannot be read: No such file or directory",
        "c.pub: not a CURVE key",
    ]


def test_authorized_keys_when_something_is_no_file_does_not_wait_for_it(tmp_path: Path) -> None:
    known = AuthorizedKeys(tmp_path)
    os.mkfifo(tmp_path / "pipe.pub")
    known.read()
    assert "pipe.pub: not a regular file" in known.problems[0]


def test_authorized_keys_when_the_directory_cannot_be_read_any_more_says_so(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    known = AuthorizedKeys(tmp_path / "keys")
    write_pair(tmp_path / "keys" / "a.key")
    known.read()
    (tmp_path / "keys").rename(tmp_path / "moved")
    assert known.read()
    assert known.problems == [f"{tmp_path}/keys: cannot be read: No such file or directory"]
