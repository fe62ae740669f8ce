"""The compile cache makes starts faster, keeps its limit, and never causes a failure."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from qzd_daemon.config.schema import Config, ModelConfig, ServiceConfig
from qzd_daemon.engine import models
from qzd_daemon.engine.compile_cache import checked, prune
from qzd_daemon.engine.engine import Engine
from qzd_daemon.sources.ingest import IngestRegistry
from qzd_ext.files import sha256_of


@pytest.mark.parametrize(
    ("most", "left"),
    [(300, ["a", "b", "c"]), (299, ["b", "c"]), (100, ["c"]), (0, [])],
    ids=["all fit", "one too many", "one fits", "none"],
)
def test_prune_removes_what_was_used_longest_ago(tmp_path: Path, most: int, left: list[str]) -> None:
    for age, name in enumerate("cba"):
        path = tmp_path / f"{name}.blob"
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e9 - age))
    (tmp_path / "mine.txt").write_bytes(bytes(1000))
    assert prune(tmp_path, most) == 3 - len(left)
    assert sorted(p.stem for p in tmp_path.glob("*.blob")) == left
    assert (tmp_path / "mine.txt").exists()


def test_prune_when_the_directory_is_not_there_does_nothing(tmp_path: Path) -> None:
    assert prune(tmp_path / "nowhere", 0) == 0


def test_engine_when_the_cache_is_too_small_serves_all_the_same(tmp_path: Path, tiny_bundle: Path) -> None:
    served = {"tiny": ModelConfig(bundle=str(tiny_bundle), device="CPU")}
    for limit in (100, 0):
        engine = Engine(lambda *_: None, lambda: None, IngestRegistry(1))
        engine.apply(
            Config(models=served, service=ServiceConfig(cache_dir=str(tmp_path), cache_max_mb=limit))
        )
        assert engine.stop(10)
        assert len(list(tmp_path.rglob("*.blob"))) == (limit > 0)


def _cached(tmp_path: Path, bundle: Path) -> tuple[Path, os.stat_result]:
    """Load a model through the cache; returns the one file that it then holds."""
    models.load("tiny", ModelConfig(bundle=str(bundle), device="CPU"), tmp_path).detector.close()
    (blob,) = tmp_path.rglob("*.blob")
    return blob, blob.stat()


def test_load_when_the_cached_model_is_whole_uses_it(tmp_path: Path, tiny_bundle: Path) -> None:
    assert _cached(tmp_path, tiny_bundle)[1].st_ino == _cached(tmp_path, tiny_bundle)[1].st_ino


def _flip_bit(blob: Path) -> None:
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    _write(blob, bytes(content))


def _write(blob: Path, content: bytes) -> None:
    blob.chmod(0o600)
    blob.write_bytes(content)


@pytest.mark.parametrize(
    "harm",
    [
        _flip_bit,
        lambda blob: _write(blob, blob.read_bytes()[:100]),
        lambda blob: _write(blob, b""),
        lambda blob: blob.with_suffix(".sha256").unlink(),
        lambda blob: blob.with_suffix(".sha256").write_bytes(b"\xff"),
    ],
    ids=["one bit", "cut", "empty", "no checksum", "wrong checksum"],
)
def test_load_when_a_cached_model_is_damaged_compiles_again(
    tmp_path: Path, tiny_bundle: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], None]
) -> None:
    blob, _ = _cached(tmp_path, tiny_bundle)
    whole = blob.read_bytes()
    harm(blob)
    again, _ = _cached(tmp_path, tiny_bundle)
    assert f"{blob}: the compiled model is damaged" in caplog.text
    assert len(whole) == again.stat().st_size
    assert again.with_suffix(".sha256").read_text() == sha256_of(again)


def test_each_bundle_has_a_folder_of_its_own(tmp_path: Path) -> None:
    with checked(tmp_path, "sha256:1") as one, checked(tmp_path, "sha256:2") as other:
        assert one is not None
        assert other is not None
        assert one.parent == other.parent == tmp_path
        assert one != other
