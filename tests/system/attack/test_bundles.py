"""Bundles that are changed while they serve, or made to cost memory and time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from qzd_client import ControlClient, RefusedError
from qzd_ext import bundle
from support.tiny_model import write_tiny_bundle
from support.victim import Victim

pytestmark = pytest.mark.system


def _costly_key(path: Path) -> None:
    (path / "bundle.toml").write_text(".".join(["a"] * 20_000) + " = 1\n")


def _vast_manifest(path: Path) -> None:
    os.truncate(path / "bundle.toml", 1_500_000_000)


def _sparse_weights(path: Path) -> None:
    os.truncate(path / "model.bin", 4 << 40)


def _png_with_a_vast_chunk(path: Path) -> None:
    """Let a chunk of a golden picture of 100 bytes claim 4 GiB, and correct the hash in bundle.toml."""
    picture = path / "golden" / "0.png"
    before = bundle.sha256_of(picture)
    picture.write_bytes(picture.read_bytes()[:33] + b"\xff\xff\xff\xf0IDAT" + bytes(59))
    manifest = path / "bundle.toml"
    manifest.write_text(manifest.read_text().replace(before, bundle.sha256_of(picture)))


@pytest.mark.parametrize(
    "harm", [_costly_key, _vast_manifest, _sparse_weights, _png_with_a_vast_chunk], ids=lambda f: f.__name__
)
def test_a_bundle_that_costs_too_much_is_refused_by_load(
    victim: Callable[..., Victim], tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    attacked = victim()
    path = write_tiny_bundle(tmp_path / "bad")
    harm(path)
    with ControlClient(attacked.daemon.socket_of("control"), timeout=60) as control:
        for _ in range(3):
            with pytest.raises(RefusedError):
                control.load("bad", str(path), "CPU")
        assert [model.model.name for model in control.models()] == ["tiny"]
    attacked.check()


@pytest.mark.parametrize("size", [0, 1 << 16], ids=["cut", "overwritten"])
def test_the_files_of_a_serving_bundle_are_changed(victim: Callable[..., Victim], size: int) -> None:
    attacked = victim()
    path = attacked.directory / "tiny"
    for file in (path / "model.bin", path / "model.xml", *(path / "golden").iterdir()):
        os.truncate(file, 0)
        os.truncate(file, size)
    time.sleep(1)
    with ControlClient(attacked.daemon.socket_of("control"), timeout=60) as control:
        control.self_test()
    attacked.check()
