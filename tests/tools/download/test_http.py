"""Downloads from a real server on loopback that stalls, truncates, lies and fails."""

from __future__ import annotations

import hashlib
import random
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from qzd_ext.errors import DataError, ResourceError
from qzd_tools.download.catalogue import RemoteFile
from qzd_tools.download.http import Patience, _RefusedError, _SameOrSafer, checksum_of, fetch
from support.http_server import Mirror, serve

CONTENT = random.Random(1).randbytes(300_000)
QUICK = Patience(stall_seconds=0.3, attempts=4, pause_seconds=0.01)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serve() as server:
        server.files["model.bin"] = CONTENT
        yield server


def remote(mirror: Mirror, *manners: str, content: bytes = CONTENT) -> RemoteFile:
    addresses = tuple(f"{mirror.address}/{manner}/model.bin" for manner in manners)
    checksum = f"sha384:{hashlib.sha384(content).hexdigest()}"
    return RemoteFile(name="model.bin", addresses=addresses, bytes=len(content), checksum=checksum)


@pytest.mark.parametrize("manner", ["whole", "third", "stall", "norange", "busy", "moved"])
def test_fetch_gives_the_whole_file_when_the_server_is_in_trouble(
    mirror: Mirror, tmp_path: Path, manner: str
) -> None:
    fetch(remote(mirror, manner), tmp_path / "model.bin", patience=QUICK)
    assert (tmp_path / "model.bin").read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [tmp_path / "model.bin"]


@pytest.mark.parametrize("kind", ["sha384", "sha256", "md5"])
def test_fetch_compares_the_checksum_that_is_published(mirror: Mirror, tmp_path: Path, kind: str) -> None:
    address = f"{mirror.address}/whole/model.bin"
    checksum = f"{kind}:{hashlib.new(kind, CONTENT).hexdigest()}"
    fetch(RemoteFile(name="model.bin", addresses=(address,), checksum=checksum), tmp_path / "model.bin")
    wrong = RemoteFile(name="model.bin", addresses=(address,), checksum=checksum[:-4] + "beef")
    with pytest.raises(DataError, match=f"its checksum is {checksum}"):
        fetch(wrong, tmp_path / "other.bin", patience=QUICK)


def test_fetch_goes_on_where_the_connection_broke(mirror: Mirror, tmp_path: Path) -> None:
    there: list[int] = []
    fetch(remote(mirror, "third"), tmp_path / "model.bin", patience=QUICK, step=there.append)
    assert [asked for _, asked in mirror.requests] == [None, "bytes=100000-", "bytes=200000-"]
    assert there == sorted(there)
    assert there[-1] == len(CONTENT)


def test_fetch_goes_on_with_what_a_killed_process_left(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / ".model.bin.part").write_bytes(CONTENT[:250_000])
    fetch(remote(mirror, "whole"), tmp_path / "model.bin", patience=QUICK)
    assert [asked for _, asked in mirror.requests] == ["bytes=250000-"]
    assert checksum_of(tmp_path / "model.bin") == remote(mirror, "whole").checksum


def test_fetch_starts_again_when_no_checksum_would_tell_that_two_files_are_mixed(
    mirror: Mirror, tmp_path: Path
) -> None:
    addresses = tuple(f"{mirror.address}/{manner}/model.bin" for manner in ("third", "whole"))
    file = RemoteFile(name="model.bin", addresses=addresses)
    (tmp_path / ".model.bin.part").write_bytes(bytes(50_000))
    fetch(file, tmp_path / "model.bin", patience=Patience(0.3, 2, 0.01))
    assert [asked for _, asked in mirror.requests] == [None, "bytes=100000-", None]
    assert (tmp_path / "model.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("size", [250_000, 300_000, 400_000], ids=["shorter", "same", "longer"])
def test_fetch_starts_again_when_what_is_there_belongs_to_another_file(
    mirror: Mirror, tmp_path: Path, size: int
) -> None:
    (tmp_path / ".model.bin.part").write_bytes(bytes(size))
    fetch(remote(mirror, "whole"), tmp_path / "model.bin", patience=QUICK)
    assert (tmp_path / "model.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("manner", "message"),
    [
        ("longer", "300010 bytes, 300000 were wanted"),
        ("endless", "more than 300000 bytes came"),
        ("garbled", "checksum is sha384:"),
        ("elsewhere", "asked for bytes from 100000, it sent bytes 1-"),
        ("broken", "HTTP 500"),
    ],
)
def test_fetch_names_the_address_and_what_it_did_when_it_lies(
    mirror: Mirror, tmp_path: Path, manner: str, message: str
) -> None:
    with pytest.raises(DataError, match=rf"{mirror.address}/{manner}/model.bin: .*{message}(.|\n)*--mirror"):
        fetch(remote(mirror, manner), tmp_path / "model.bin", patience=QUICK)
    assert not (tmp_path / "model.bin").exists()


def test_fetch_says_that_nothing_came_when_the_server_stalls(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["model.bin"] = CONTENT[:1]
    with pytest.raises(DataError, match=r"nothing came for 0\.3 seconds"):
        fetch(RemoteFile(name="model.bin", addresses=(f"{mirror.address}/stall/model.bin",)),
              tmp_path / "model.bin", patience=Patience(0.3, 1))  # fmt: skip


def test_fetch_takes_the_next_address_when_one_fails(mirror: Mirror, tmp_path: Path) -> None:
    fetch(remote(mirror, "broken", "garbled", "whole"), tmp_path / "model.bin", patience=QUICK)
    assert (tmp_path / "model.bin").read_bytes() == CONTENT


def test_fetch_does_not_ask_again_when_the_file_is_not_there(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files.clear()
    with pytest.raises(DataError, match="HTTP 404"):
        fetch(remote(mirror, "whole"), tmp_path / "model.bin", patience=QUICK)
    assert len(mirror.requests) == 1


def test_fetch_says_so_when_nobody_listens(mirror: Mirror, tmp_path: Path) -> None:
    file = RemoteFile(name="model.bin", addresses=("http://127.0.0.1:9/model.bin",))
    with pytest.raises(DataError, match="refused"):
        fetch(file, tmp_path / "model.bin", patience=Patience(1, 1))


@pytest.mark.parametrize("address", ["file:///etc/hostname", "ftp://127.0.0.1/model.bin"])
def test_fetch_names_the_address_when_it_is_neither_http_nor_https(
    mirror: Mirror, tmp_path: Path, address: str
) -> None:
    with pytest.raises(DataError, match=f"{address}: unknown url type"):
        fetch(remote(mirror, "whole"), tmp_path / "model.bin", (address,), QUICK)


def test_fetch_blames_the_disk_when_it_is_full(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".model.bin.part").symlink_to("/dev/full")
    monkeypatch.setattr("qzd_tools.download.http.os.fsync", lambda _: None)  # which a device does not have
    with pytest.raises(ResourceError, match="cannot be written: No space left"):
        fetch(remote(mirror, "whole"), tmp_path / "model.bin", patience=QUICK)
    assert len(mirror.requests) == 1


def test_fetch_goes_through_the_proxy_of_the_environment(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", mirror.address)
    file = RemoteFile(name="model.bin", addresses=("http://models.invalid/whole/model.bin",))
    fetch(file, tmp_path / "model.bin", patience=QUICK)
    assert (tmp_path / "model.bin").read_bytes() == CONTENT


def test_fetch_refuses_when_the_disk_has_no_room(mirror: Mirror, tmp_path: Path) -> None:
    file = RemoteFile(name="model.bin", addresses=(mirror.address,), bytes=1 << 60)
    with pytest.raises(ResourceError, match="MB are free"):
        fetch(file, tmp_path / "model.bin", patience=QUICK)
    assert mirror.requests == []


def test_fetch_does_not_follow_from_https_to_http() -> None:
    request = urllib.request.Request("https://models.invalid/model.bin")
    with pytest.raises(_RefusedError, match="redirects from https to http://"):
        _SameOrSafer().redirect_request(request, None, 302, "Found", {}, "http://models.invalid/model.bin")
