"""Archives that unpack, and archives whose members point outside of their directory."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Literal

import pytest

from qzd_ext.errors import DataError
from qzd_tools.download.archives import unpack

Mode = Literal["w:", "w:gz", "w:xz", "w:bz2"]


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: Mode = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz"])
def test_unpack_writes_the_files_of_a_tar(tmp_path: Path, mode: Mode) -> None:
    folder = member("model", tarfile.DIRTYPE)
    archive = tar(tmp_path / "a", (folder, b""), (member("./model/graph.pb"), b"graph"), mode=mode)
    assert unpack(archive, tmp_path / "out") == [tmp_path / "out" / "model" / "graph.pb"]
    assert (tmp_path / "out" / "model" / "graph.pb").read_bytes() == b"graph"


def test_unpack_writes_the_files_of_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("model")
        archive.writestr("model/graph.pb", b"graph" * 1000)
    assert unpack(tmp_path / "a.zip", tmp_path / "out") == [tmp_path / "out" / "model" / "graph.pb"]
    assert (tmp_path / "out" / "model" / "graph.pb").stat().st_size == 5000


def test_unpack_writes_the_zip_that_a_tar_ends_with(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as inner:
        inner.writestr("inside", b"not wanted")
    members = (member("a.pb"), b"graph"), (member("b.zip"), buffer.getvalue())
    archive = tar(tmp_path / "a.tar", *members, mode="w:")
    assert {path.name for path in unpack(archive, tmp_path / "out")} == {"a.pb", "b.zip"}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (member("../outside"), "leads out"),
        (member("a/../../outside"), "leads out"),
        (member("/etc/outside"), "leads out"),
        (member("a\\..\\outside"), "leads out"),
        (member("link", tarfile.SYMTYPE, "/etc/passwd"), "link or a device"),
        (member("hard", tarfile.LNKTYPE, "good"), "link or a device"),
        (member("device", tarfile.CHRTYPE), "link or a device"),
        (member("pipe", tarfile.FIFOTYPE), "link or a device"),
    ],
    ids=lambda value: value.name if isinstance(value, tarfile.TarInfo) else "",
)
def test_unpack_refuses_a_tar_and_writes_nothing_when_a_member_is_bad(
    tmp_path: Path, bad: tarfile.TarInfo, message: str
) -> None:
    archive = tar(tmp_path / "a.tar.gz", (member("good"), b"good"), (bad, b""))
    with pytest.raises(DataError, match=message):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../outside", "/outside", "link"])
def test_unpack_refuses_a_zip_when_a_member_is_bad(tmp_path: Path, name: str) -> None:
    info = zipfile.ZipInfo(name)
    if name == "link":
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match=r"leads out|link"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("field", "value"), [(6, 1), (8, 99)], ids=["password", "packing"])
def test_unpack_says_so_when_a_zip_needs_what_is_not_known(tmp_path: Path, field: int, value: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("graph.pb", b"graph")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[field] = content[content.find(b"PK\1\2") + field + 2] = value
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_unpack_refuses_what_grows_over_the_limit(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar.gz", (member("zeros"), bytes(1_000_000)))
    assert archive.stat().st_size < 10_000
    with pytest.raises(DataError, match=r"over 0\.5 MB"):
        unpack(archive, tmp_path / "out", most_bytes=500_000)


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty"])
def test_unpack_says_so_when_the_archive_is_damaged(tmp_path: Path, damage: str) -> None:
    archive = tar(tmp_path / "a.tar.gz", (member("noise"), bytes(range(256)) * 400))
    whole = archive.read_bytes()
    flipped = whole[:200] + bytes([whole[200] ^ 255]) + whole[201:]
    archive.write_bytes({"cut": whole[:300], "flipped": flipped, "text": b"<html>", "empty": b""}[damage])
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "out")
