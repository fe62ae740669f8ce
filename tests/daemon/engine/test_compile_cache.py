"""The compile cache: faster starts, within its bound, and never a reason to fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qzd_daemon.config.schema import Config, ModelConfig, ServiceConfig
from qzd_daemon.engine.compile_cache import prune
from qzd_daemon.engine.engine import Engine, models
from qzd_daemon.sources.ingest import IngestRegistry


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
        assert len(list(tmp_path.glob("*.blob"))) == (limit > 0)


def test_load_when_a_cached_model_is_damaged_compiles_again(tmp_path: Path, tiny_bundle: Path) -> None:
    config = ModelConfig(bundle=str(tiny_bundle), device="CPU")
    models.load("tiny", config, tmp_path).detector.close()
    (blob,) = tmp_path.glob("*.blob")
    blob.write_bytes(blob.read_bytes()[:100])
    models.load("tiny", config, tmp_path).detector.close()
