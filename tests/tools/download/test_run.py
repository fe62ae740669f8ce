"""Models of a catalogue, downloaded from a server on loopback and from a directory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qzd_ext.errors import DataError, UsageError
from qzd_tools.cli import main
from qzd_tools.convert.run import ConvertOptions
from qzd_tools.download.catalogue import Entry, RemoteFile, find, load
from qzd_tools.download.http import Patience
from qzd_tools.download.run import Origin, download, downloaded
from support.http_server import Mirror, serve
from support.waiting import until

QUICK = Patience(stall_seconds=1, attempts=2, pause_seconds=0.01)


def archive(name: str = "graph/frozen.pb") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.size = 5
        tar.addfile(info, io.BytesIO(b"graph"))
    return buffer.getvalue()


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serve() as server:
        server.files = {"tiny/graph.tar.gz": archive(), "tiny/labels.txt": b"cat\ndog\n"}
        yield server


def remote(mirror: Mirror, name: str, **changes: object) -> RemoteFile:
    content = mirror.files[f"tiny/{name}"]
    facts: dict[str, Any] = {
        "name": name,
        "addresses": (f"{mirror.address}/whole/tiny/{name}",),
        "bytes": len(content),
        "checksum": f"sha256:{hashlib.sha256(content).hexdigest()}",
    }
    return RemoteFile(**(facts | changes))


@pytest.fixture
def entry(mirror: Mirror) -> Entry:
    files = (remote(mirror, "graph.tar.gz", unpack=True), remote(mirror, "labels.txt"))
    return Entry(title="Tiny", task="detection", format="test", licence="none",
                 model=("graph/frozen.pb",), files=files)  # fmt: skip


def download_half(mirror: Mirror, entry: Entry, directory: Path) -> None:
    """Download only the archive: the server has no labels until this is over."""
    labels = mirror.files.pop("tiny/labels.txt")
    with pytest.raises(DataError, match="HTTP 404"):
        download("tiny", entry, directory, patience=QUICK)
    mirror.files["tiny/labels.txt"] = labels


def test_download_gives_a_whole_directory(mirror: Mirror, entry: Entry, tmp_path: Path) -> None:
    record = download("tiny", entry, tmp_path / "tiny", patience=QUICK)
    assert record.paths(tmp_path / "tiny") == [tmp_path / "tiny" / "graph" / "frozen.pb"]
    assert set(record.files) == {"graph/frozen.pb", "labels.txt"}
    assert record.verified
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]


def test_download_asks_for_nothing_again_when_all_is_there(
    mirror: Mirror, entry: Entry, tmp_path: Path
) -> None:
    first = download("tiny", entry, tmp_path / "tiny", patience=QUICK)
    asked = len(mirror.requests)
    assert download("tiny", entry, tmp_path / "tiny", patience=QUICK) == first
    assert len(mirror.requests) == asked


def test_download_does_not_take_what_is_there_for_another_version(
    mirror: Mirror, entry: Entry, tmp_path: Path
) -> None:
    first = download("tiny", entry, tmp_path / "tiny", patience=QUICK)
    mirror.files["tiny/labels.txt"] = b"cat\ndog\nhorse\n"
    newer = msgspec.structs.replace(entry, files=(entry.files[0], remote(mirror, "labels.txt")))
    with pytest.raises(UsageError, match="or one of other files"):
        download("tiny", newer, tmp_path / "tiny", patience=QUICK)
    assert downloaded("tiny", entry, tmp_path / "tiny") == first
    assert downloaded("tiny", newer, tmp_path / "tiny") is None


def test_download_keeps_the_files_that_came_when_another_fails(
    mirror: Mirror, entry: Entry, tmp_path: Path
) -> None:
    download_half(mirror, entry, tmp_path / "tiny")
    assert not (tmp_path / "tiny").exists()
    mirror.requests.clear()
    download("tiny", entry, tmp_path / "tiny", patience=QUICK)
    assert [path for path, _ in mirror.requests] == ["whole/tiny/labels.txt"]


def test_download_keeps_what_is_hidden_in_an_archive(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["tiny/graph.tar.gz"] = archive(".hidden/graph.pb")
    entry = Entry(title="Tiny", task="detection", format="test", licence="none", model=(".hidden/graph.pb",),
                  files=(remote(mirror, "graph.tar.gz", unpack=True),))  # fmt: skip
    assert set(download("tiny", entry, tmp_path / "tiny", patience=QUICK).files) == {".hidden/graph.pb"}


def test_download_does_not_take_what_another_version_unpacked(
    mirror: Mirror, entry: Entry, tmp_path: Path
) -> None:
    download_half(mirror, entry, tmp_path / "tiny")
    mirror.files["tiny/graph.tar.gz"] = archive("new/graph.pb")
    changed = remote(mirror, "graph.tar.gz", unpack=True)
    newer = msgspec.structs.replace(entry, files=(changed, entry.files[1]), model=("new/graph.pb",))
    download("tiny", newer, tmp_path / "tiny", patience=QUICK)
    assert (tmp_path / "tiny" / "new" / "graph.pb").exists()


def test_download_goes_on_when_it_was_killed_while_it_unpacked(
    mirror: Mirror, entry: Entry, tmp_path: Path
) -> None:
    (tmp_path / ".tiny.partial" / "graph").mkdir(parents=True)
    (tmp_path / ".tiny.partial" / "graph" / "frozen.pb").write_bytes(b"gra")
    for path, content in mirror.files.items():
        (tmp_path / ".tiny.partial" / Path(path).name).write_bytes(content)
    download("tiny", entry, tmp_path / "tiny", patience=QUICK)
    assert (tmp_path / "tiny" / "graph" / "frozen.pb").read_bytes() == b"graph"
    assert [p.name for p in (tmp_path / "tiny").iterdir() if p.name.startswith((".", "graph."))] == []
    assert mirror.requests == []


def test_downloaded_is_none_when_a_file_has_changed(mirror: Mirror, entry: Entry, tmp_path: Path) -> None:
    download("tiny", entry, tmp_path / "tiny", patience=QUICK)
    (tmp_path / "tiny" / "labels.txt").write_text("cat\ncow\n")
    assert downloaded("tiny", entry, tmp_path / "tiny") is None
    (tmp_path / "tiny" / "download.json").write_bytes(b'{"name": "\xff"}')
    assert downloaded("tiny", entry, tmp_path / "tiny") is None
    with pytest.raises(UsageError, match="something else is there"):
        download("tiny", entry, tmp_path / "tiny", patience=QUICK)


def test_download_tries_mirrors_first(mirror: Mirror, entry: Entry, tmp_path: Path) -> None:
    origin = Origin(mirrors=(f"{mirror.address}/broken/", f"{mirror.address}/whole"))
    download("tiny", entry, tmp_path / "tiny", origin, QUICK)
    assert [path.partition("/")[0] for path, _ in mirror.requests[:3]] == ["broken", "broken", "whole"]


@pytest.mark.parametrize("folder", [".", "tiny"])
def test_download_from_a_directory_needs_no_network(
    mirror: Mirror, entry: Entry, tmp_path: Path, folder: str
) -> None:
    (tmp_path / "usb" / folder).mkdir(parents=True)
    (tmp_path / ".tiny.partial").mkdir()
    (tmp_path / ".tiny.partial" / ".labels.txt.part").write_text("what a network left")
    for path, content in mirror.files.items():
        (tmp_path / "usb" / folder / Path(path).name).write_bytes(content)
    download("tiny", entry, tmp_path / "tiny", Origin(directory=tmp_path / "usb"))
    assert (tmp_path / "tiny" / "graph" / "frozen.pb").read_bytes() == b"graph"
    assert not list((tmp_path / "tiny").glob(".*"))
    assert mirror.requests == []


@pytest.mark.parametrize(("content", "message"), [(None, "not there"), (b"other", "another content")])
def test_download_from_a_directory_names_the_file_when_it_is_missing_or_wrong(
    entry: Entry, tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content:
        (tmp_path / "graph.tar.gz").write_bytes(content)
    with pytest.raises(DataError, match=rf"graph\.tar\.gz: .*{message}"):
        download("tiny", entry, tmp_path / "tiny", Origin(directory=tmp_path))


def test_download_takes_a_file_of_unknown_checksum_only_when_told(mirror: Mirror, tmp_path: Path) -> None:
    entry = Entry(title="Tiny", task="detection", format="test", licence="none", model=("labels.txt",),
                  files=(remote(mirror, "labels.txt", checksum=""),))  # fmt: skip
    with pytest.raises(UsageError, match="--unverified"):
        download("tiny", entry, tmp_path / "tiny")
    record = download("tiny", entry, tmp_path / "tiny", Origin(unverified=True))
    assert not record.verified
    assert record.files["labels.txt"].startswith("sha384:")


def test_download_says_so_when_the_model_is_not_among_the_files(mirror: Mirror, tmp_path: Path) -> None:
    entry = Entry(title="Tiny", task="detection", format="test", licence="none", model=("graph.xml",),
                  files=(remote(mirror, "labels.txt"),))  # fmt: skip
    with pytest.raises(DataError, match=r"graph\.xml is not among.*labels\.txt"):
        download("tiny", entry, tmp_path / "tiny")


def test_the_packaged_catalogue_states_options_that_convert_knows() -> None:
    for entry in load().values():
        ConvertOptions(**entry.convert)
        assert entry.input
        assert entry.published["dataset"]
        assert all(0 < value < 1 for value in entry.published.values() if isinstance(value, float))


def test_find_names_the_nearest_when_a_name_is_wrong() -> None:
    with pytest.raises(UsageError, match=r"did you mean yolo-v4-tf\?"):
        find(load(), "yolov4-tf")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('address = "x"', "address"),
        ('checksum = "md5:1234"', "checksum"),
        ('addresses = ["ftp://x/y"]', "neither http nor https"),
        ('name = "../x"', "name"),
        ("= 1", "Invalid"),
    ],
)
def test_load_names_the_key_when_a_catalogue_is_wrong(tmp_path: Path, line: str, message: str) -> None:
    facts = {"name": 'name = "x"', "addresses": 'addresses = ["http://x/y"]'}
    facts[line.split(" ")[0]] = line
    text = '[m]\ntitle = "M"\ntask = "detection"\nformat = "x"\nlicence = "x"\nmodel = ["x"]\n[[m.files]]\n'
    (tmp_path / "c.toml").write_text(text + "\n".join(facts.values()))
    with pytest.raises(DataError, match=message):
        load(tmp_path / "c.toml")


@pytest.mark.parametrize("content", [b'title = "caf\xe9"', b"a = " + b"[" * 5000], ids=["latin-1", "deep"])
def test_load_names_the_file_when_it_is_no_toml_at_all(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.toml").write_bytes(content)
    with pytest.raises(DataError, match=r"c\.toml: "):
        load(tmp_path / "c.toml")


def test_the_commands_write_json(
    mirror: Mirror, entry: Entry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["catalogue", "--json", str(tmp_path / "list.json")]) == 0
    assert "yolo-v4-tf" in json.loads((tmp_path / "list.json").read_text())
    lines = [
        '[tiny]\ntitle = "Tiny"\ntask = "detection"\nformat = "test"\nlicence = "none"',
        'model = ["labels.txt"]\n[tiny.convert]\nmean = [1.5, 2]\nbackground = false\nnormalized = false',
        'anchors = [[10, 14], [23, 27]]\nmasks = [[0], [1]]\nlabels = "my names.txt"\n[[tiny.files]]',
        f'name = "labels.txt"\naddresses = ["{mirror.address}/whole/tiny/labels.txt"]',
        f'checksum = "{entry.files[1].checksum}"',
    ]
    (tmp_path / "c.toml").write_text("\n".join(lines))
    chosen = ["--catalogue", str(tmp_path / "c.toml"), "-o", str(tmp_path / "a tiny one")]
    assert main(["download", "tiny", *chosen, "--json", str(tmp_path / "done.json")]) == 0
    assert json.loads((tmp_path / "done.json").read_text())["verified"] is True
    flags = "--mean 1.5,2 --no-background --pixels --anchors 10,14,23,27 --masks 0/1 --labels 'my names.txt'"
    assert f"convert '{tmp_path}/a tiny one/labels.txt' {flags}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["download", "yolo-v4-tf", "--mirror", "mirror:8000/models"], 2, "neither http nor https"),
        (["download", "m", "--catalogue", "c.toml"], 3, "m.convert.label: convert has no such option"),
    ],
)
def test_download_says_what_is_wrong_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str], code: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text(
        '[m]\ntitle = "M"\ntask = "detection"\nformat = "x"\nlicence = "x"\nmodel = ["x"]\n'
        'convert = { label = "coco80" }\n[[m.files]]\nname = "x"\naddresses = ["http://x/y"]\n'
    )
    assert main(words) == code
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["c.toml"]


def test_download_goes_on_after_ctrl_c(mirror: Mirror, tmp_path: Path) -> None:
    content = random.Random(2).randbytes(3_000_000)
    mirror.files["tiny/model.bin"] = content
    catalogue = tmp_path / "c.toml"
    catalogue.write_text(
        '[tiny]\ntitle = "Tiny"\ntask = "detection"\nformat = "test"\nlicence = "none"\n'
        'model = ["model.bin"]\n'
        f'[[tiny.files]]\nname = "model.bin"\naddresses = ["{mirror.address}/stall/tiny/model.bin"]\n'
        f'checksum = "sha256:{hashlib.sha256(content).hexdigest()}"\n'
    )
    words = ["download", "tiny", "--catalogue", str(catalogue), "-o", str(tmp_path / "tiny")]
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    whole = [sys.executable, "-m", "qzd_tools.cli", *words]
    process = subprocess.Popen(whole, env=paths, stderr=subprocess.PIPE)
    part = tmp_path / ".tiny.partial" / ".model.bin.part"
    half = len(content) // 2
    until(lambda: (part.exists() and part.stat().st_size >= half) or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert (process.returncode, b"interrupted" in said) == (4, True)
    assert not (tmp_path / "tiny").exists()
    catalogue.write_text(catalogue.read_text().replace("/stall/", "/whole/"))
    assert main(words) == 0
    assert mirror.requests[-1] == ("whole/tiny/model.bin", f"bytes={len(content) // 2}-")
