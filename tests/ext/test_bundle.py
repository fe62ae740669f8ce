"""Bundles on disk are whole or do not exist, and damage is always reported."""

from __future__ import annotations

import io
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from qzd_ext import bundle
from qzd_ext.errors import BundleError
from qzd_ext.manifest import (
    MAX_MANIFEST_BYTES,
    Head,
    Input,
    Labels,
    Manifest,
    Provenance,
    Ssd,
    YoloAnchor,
    Yolox,
)

MANIFEST = Manifest(
    name="small",
    task="detection",
    precision="fp32",
    input=Input(width=64, height=64, resize="stretch"),
    head=Yolox(),
    labels=Labels(names=("bolt", "")),
)


def _write(
    path: Path, manifest: Manifest = MANIFEST, *, overwrite: bool = False, model: bytes = b"<net/>"
) -> None:
    with bundle.create(path, overwrite=overwrite) as draft:
        (draft.directory / "model.xml").write_bytes(model)
        (draft.directory / "model.bin").write_bytes(bytes(range(64)))
        draft.manifest = manifest


def test_read_gives_what_was_written(tmp_path: Path) -> None:
    _write(tmp_path / "b")
    found = bundle.read(tmp_path / "b")
    assert found.manifest.head == MANIFEST.head
    assert found.manifest.files.keys() == {"model.xml", "model.bin", "labels.txt"}
    assert found.digest == f"sha256:{bundle.sha256_of(tmp_path / 'b' / 'bundle.toml')}"
    assert found.size == len(b"<net/>") + 64
    assert (tmp_path / "b" / "labels.txt").read_text() == "bolt\nclass 1\n"


def test_create_leaves_nothing_beside_the_bundle(tmp_path: Path) -> None:
    _write(tmp_path / "deep" / "b")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["b"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_create_leaves_nothing_when_interrupted(tmp_path: Path, interruption: type[BaseException]) -> None:
    with pytest.raises(interruption), bundle.create(tmp_path / "b") as draft:  # noqa: PT012
        (draft.directory / "model.xml").write_bytes(b"half")
        raise interruption
    assert list(tmp_path.iterdir()) == []


def test_create_keeps_the_old_bundle_when_interrupted(tmp_path: Path) -> None:
    _write(tmp_path / "b")
    before = bundle.read(tmp_path / "b").digest
    with pytest.raises(KeyboardInterrupt), bundle.create(tmp_path / "b", overwrite=True):
        raise KeyboardInterrupt
    assert bundle.read(tmp_path / "b").digest == before


@pytest.mark.parametrize("exchange", [bundle._exchange, lambda *_: False])
def test_create_replaces_a_bundle_only_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: Callable[[Path, Path], bool]
) -> None:
    monkeypatch.setattr(bundle, "_exchange", exchange)
    _write(tmp_path / "b")
    with pytest.raises(BundleError, match="--overwrite"):
        _write(tmp_path / "b", model=b"<other/>")
    _write(tmp_path / "b", overwrite=True, model=b"<other/>")
    assert (tmp_path / "b" / "model.xml").read_bytes() == b"<other/>"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_create_when_it_replaces_a_bundle_leaves_no_moment_without_one(tmp_path: Path) -> None:
    _write(tmp_path / "b")
    _write(tmp_path / "c")
    if not bundle._exchange(tmp_path / "b", tmp_path / "c"):
        pytest.skip("this file system cannot exchange two names")
    done, missed = threading.Event(), 0

    def replace() -> None:
        for _ in range(30):
            _write(tmp_path / "b", overwrite=True)
        done.set()

    replacing = threading.Thread(target=replace)
    replacing.start()
    while not done.is_set():
        missed += not (tmp_path / "b" / bundle.MANIFEST).exists()
    replacing.join()
    assert missed == 0


def test_create_does_not_replace_what_came_while_it_wrote(tmp_path: Path) -> None:
    def write_late() -> None:
        with bundle.create(tmp_path / "b") as draft:
            for name in ("model.xml", "model.bin"):
                (draft.directory / name).write_bytes(b"late")
            draft.manifest = MANIFEST
            _write(tmp_path / "b")

    with pytest.raises(BundleError, match="--overwrite"):
        write_late()
    assert bundle.read(tmp_path / "b").model.read_bytes() == b"<net/>"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_create_never_replaces_what_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("mine")
    with pytest.raises(BundleError, match="something is there already"):
        _write(tmp_path / "precious", overwrite=True)
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "mine"


def _flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.bin", "model.xml", "labels.txt"])
def test_read_names_the_file_when_one_bit_has_changed(tmp_path: Path, name: str) -> None:
    _write(tmp_path / "b")
    _flip_byte(tmp_path / "b" / name)
    with pytest.raises(BundleError, match=f"{name} has sha256"):
        bundle.read(tmp_path / "b")


def test_read_names_the_file_when_it_is_missing(tmp_path: Path) -> None:
    _write(tmp_path / "b")
    (tmp_path / "b" / "model.bin").unlink()
    with pytest.raises(BundleError, match=r"model\.bin cannot be read: No such file"):
        bundle.read(tmp_path / "b")


@pytest.mark.parametrize(
    ("wrong", "right", "message"),
    [
        ('name = "small"', 'nam = "small"', "nam"),
        ('kind = "yolox"', 'kind = "yolo99"', "yolo99"),
        ('precision = "fp32"', 'precision = "fp64"', "fp64"),
        ('task = "detection"', 'task = "classification"', "head Yolox is for 'detection'"),
        ("qzd.bundle/1", "qzd.bundle/9", r"qzd\.bundle/9"),
        ("strides = [", "strides = [[", "Unclosed array"),
        ("    8,", "    99999999999999999999,", "<= 16384"),
        ('name = "small"', 'name = "small\\n"', "regex"),
        ("max_detections = 300", "max_detections = 99999999999999999999", "<= 10000"),
        ("max_detections = 300", "max_detections = " + "9" * 5000, "digits"),
        ("max_detections = 300", "max_detections = " + "[" * 5000, "recursion"),
        ('name = "small"', 'name = "sm\udce9ll"', "utf-8"),
    ],
)
def test_read_refuses_a_manifest_that_is_wrong(tmp_path: Path, wrong: str, right: str, message: str) -> None:
    _write(tmp_path / "b")
    path = tmp_path / "b" / "bundle.toml"
    assert wrong in path.read_text()
    path.write_text(path.read_text().replace(wrong, right), errors="surrogateescape")
    with pytest.raises(BundleError, match=message):
        bundle.read(tmp_path / "b")


COSTLY = {
    "one dotted key of 20,000 parts": ".".join(["a"] * 20_000) + " = 1\n",
    "spaces around the dots": " . ".join(["a"] * 9) + " = 1\n",
    "quoted parts": ".".join(['"a.b"', "'c'"] * 5) + " = 1\n",
    "a table's name": "[" + ".".join(["a"] * 9) + "]\n",
    "in an inline table": "x = {" + ".".join(["a"] * 9) + " = 1}\n",
    "after a string with a quote": 'x = "\\""\n' + ".".join(["a"] * 9) + " = 1\n",
}


@pytest.mark.parametrize("text", COSTLY.values(), ids=COSTLY)
def test_read_refuses_a_manifest_with_a_deep_key_before_it_is_parsed(tmp_path: Path, text: str) -> None:
    _write(tmp_path / "b")
    (tmp_path / "b" / "bundle.toml").write_text(text)
    with pytest.raises(BundleError, match="a dotted key has more than 8 parts"):
        bundle.read(tmp_path / "b")


@pytest.mark.parametrize(
    "note",
    ["a.b.c.d.e.f.g.h.i.j", "'a'.b.c.d.e.f.g.h.i = 1", "# a.b.c.d.e.f.g.h.i", '"""a.b.c.d.e.f.g.h.i', "\\"],
)
def test_read_takes_any_number_of_dots_in_a_string(tmp_path: Path, note: str) -> None:
    _write(tmp_path / "b", msgspec.structs.replace(MANIFEST, provenance=Provenance(notes=(note, note))))
    assert bundle.read(tmp_path / "b").manifest.provenance.notes == (note, note)


@pytest.mark.parametrize(
    ("name", "limit"), [("bundle.toml", MAX_MANIFEST_BYTES), ("model.xml", 64 << 20), ("model.bin", 4 << 30)]
)
def test_read_refuses_a_file_over_its_limit_before_it_is_read(tmp_path: Path, name: str, limit: int) -> None:
    _write(tmp_path / "b")
    os.truncate(tmp_path / "b" / name, limit + 1)
    with pytest.raises(BundleError, match=rf"{name} cannot be read: it has {limit + 1} bytes"):
        bundle.read(tmp_path / "b")


@pytest.mark.parametrize(("name", "message"), [("b", "no bundle here"), ("c", "no such directory")])
def test_read_says_where_it_found_no_bundle(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(BundleError, match=message):
        bundle.read(tmp_path / name)


def test_read_refuses_a_path_that_leaves_the_bundle(tmp_path: Path) -> None:
    _write(tmp_path / "b")
    path = tmp_path / "b" / "bundle.toml"
    path.write_text(path.read_text().replace('"labels.txt"', '"../labels.txt"'))
    with pytest.raises(BundleError, match="not a plain path"):
        bundle.read(tmp_path / "b")


def test_read_of_a_directory_takes_the_highest_number(tmp_path: Path) -> None:
    for version in ("2", "10", "9", "latest"):
        _write(tmp_path / "models" / version)
    assert bundle.read(tmp_path / "models").path.name == "10"


def test_read_waits_for_no_pipe(tmp_path: Path) -> None:
    _write(tmp_path / "b")
    (tmp_path / "b" / "labels.txt").unlink()
    os.mkfifo(tmp_path / "b" / "labels.txt")  # nobody writes to it
    with pytest.raises(BundleError, match=r"labels\.txt cannot be read: not a regular file"):
        bundle.read(tmp_path / "b")


@pytest.mark.parametrize(
    "head",
    [
        YoloAnchor(anchors=((8, 8),), masks=((0,), ())),
        YoloAnchor(anchors=((8, 8),), masks=((0,),), scale_xy=(math.nan,)),
        YoloAnchor(anchors=((8, 8),), masks=((0,),), scale_xy=(-1,)),
        YoloAnchor(anchors=((8, 1e300),), masks=((0,),)),
        Ssd(scales=(1e-300, 1, 1, 1)),
        Yolox(strides=()),
    ],
    ids=["empty mask", "NaN", "negative", "infinite as float32", "zero as float32", "no stride"],
)
def test_a_head_with_which_no_box_could_be_right_is_refused(head: Head) -> None:
    with pytest.raises(ValueError, match=r"head\."):
        msgspec.structs.replace(MANIFEST, head=head).__post_init__()


def _write_ssd(path: Path, priors: bytes) -> Path:
    with bundle.create(path) as draft:
        (draft.directory / "model.xml").write_bytes(b"x")
        (draft.directory / "model.bin").write_bytes(b"x")
        (draft.directory / "priors.npy").write_bytes(priors)
        draft.manifest = msgspec.structs.replace(MANIFEST, head=Ssd())
    return path


def _saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


PRIORS = np.arange(8, dtype=np.float32).reshape(2, 4)


def test_read_of_an_ssd_brings_its_priors(tmp_path: Path) -> None:
    found = bundle.read(_write_ssd(tmp_path / "b", _saved(PRIORS))).priors
    assert found is not None
    np.testing.assert_array_equal(found, PRIORS)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 an npz",
        b"\x80\x04K\x01.",
        _saved(PRIORS)[:-4],
        _saved(PRIORS).replace(b"(2, 4)", b"(9999999999999, 4)"),
        _saved(PRIORS).replace(b"(2, 4)", b"((2, 4"),
        _saved(PRIORS.astype(np.float64)),
        _saved(PRIORS[0]),
        _saved(PRIORS * np.float32(np.nan)),
        _saved(np.array([None])),
    ],
    ids=["empty", "zip", "pickle", "cut short", "huge", "open", "float64", "a row", "NaN", "object"],
)
def test_read_of_an_ssd_refuses_priors_that_are_none(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BundleError, match=r"priors\.npy"):
        bundle.read(_write_ssd(tmp_path / "b", content))


def test_read_of_an_ssd_without_priors_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "b", msgspec.structs.replace(MANIFEST, head=Ssd()))
    with pytest.raises(BundleError, match=r"priors\.npy"):
        bundle.read(tmp_path / "b")


def test_read_ir_refuses_what_has_changed_since_the_bundle_was_read(tmp_path: Path) -> None:
    _write(tmp_path / "b")
    found = bundle.read(tmp_path / "b", check_ir=False)
    _flip_byte(tmp_path / "b" / "model.bin")
    with pytest.raises(BundleError, match=r"model\.bin has sha256"):
        bundle.read_ir(found)


def test_read_ir_refuses_weights_that_would_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "b")
    found = bundle.read(tmp_path / "b")
    monkeypatch.setattr(bundle, "usable_memory", lambda: 100)
    with pytest.raises(BundleError, match="64 bytes, and at most 50"):
        bundle.read_ir(found)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_create_says_so_when_the_disk_is_full(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    if os.system(f"mount -t tmpfs -o size=64k tmpfs {mount} 2>/dev/null") != 0:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(BundleError, match="No space left"):
            _write(mount / "b", model=bytes(1 << 20))
        assert list(mount.iterdir()) == []
    finally:
        os.system(f"umount {mount}")
