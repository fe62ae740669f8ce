"""Benchmarks of real runs: whether their figures are consistent, not how large they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from qzd_ext import bundle as bundles
from qzd_ext.errors import DeviceError, ResourceError
from qzd_ext.runner import RunOptions
from qzd_tools.benchmark.benchmark_app import run_benchmark_app
from qzd_tools.benchmark.footprint import footprint
from qzd_tools.benchmark.run import Benchmark, benchmark, frames_from
from qzd_tools.cli import main
from qzd_tools.system.machine import this_machine
from support.tiny_model import paint


@pytest.fixture(scope="module")
def figures(tiny_bundle: Path) -> list[Benchmark]:
    tiny = bundles.read(tiny_bundle)
    options = RunOptions(requests=2, threads=1)
    return benchmark([(tiny, options)] * 2, [paint((1, 2, "red"))], seconds=0.3, rounds=3)


def test_benchmark_gives_each_bundle_its_figures(figures: list[Benchmark]) -> None:
    assert len(figures) == 2
    for one in figures:
        assert (one.devices, one.threads, one.requests) == (("CPU",), 1, 2)
        for speed in (one.inference, one.whole):
            assert 0 < speed.p50_ms <= speed.p90_ms <= speed.p99_ms
            assert speed.throughput > 0
            assert speed.samples > 10


def test_benchmark_counts_every_sample_once(figures: list[Benchmark]) -> None:
    for one in figures:
        counted = sum(count for _, count in one.whole.histogram)
        assert 0.99 * one.whole.samples - 1 <= counted <= one.whole.samples


def test_the_stages_of_a_frame_are_within_its_latency(figures: list[Benchmark]) -> None:
    for one in figures:
        assert set(one.stages_ms) == {"preprocess", "inference", "postprocess"}
        assert 0 < sum(one.stages_ms.values()) <= one.whole.mean_ms


def test_footprint_is_that_of_a_new_process(tiny_bundle: Path) -> None:
    ballast = np.ones(100_000_000, np.uint8)
    cost = footprint(tiny_bundle, RunOptions())
    assert 0 < cost.before_mb < cost.peak_mb
    assert cost.before_mb < len(ballast) / 1e6 + 60  # Python and OpenVINO, without this process's ballast
    assert min(cost.cold_ms, cost.cached_ms, cost.first_inference_ms) > 0


def test_footprint_says_why_when_a_bundle_cannot_be_loaded(tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "broken")
    (tmp_path / "broken" / "model.bin").write_bytes(b"")
    with pytest.raises(DeviceError, match=r"model\.bin has sha256"):
        footprint(tmp_path / "broken", RunOptions())


def test_frames_are_images_or_golden_frames_or_noise(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = bundles.read(tiny_bundle)
    paths = [tmp_path / f"{i}.png" for i in range(100)]
    for path in paths:
        assert cv2.imwrite(str(path), paint())
    frames, what = frames_from(paths, tiny)
    assert (len(frames), what) == (64, "64 images")
    with monkeypatch.context() as patch:
        patch.setattr("qzd_tools.benchmark.run.MOST_BYTES", 2 * frames[0].nbytes)
        assert frames_from(paths, tiny)[1] == "2 images"
    assert frames_from([], tiny)[1] == "1 golden frames of tiny"
    with bundles.create(tmp_path / "bare") as draft:
        shutil.copy(tiny.model, draft.directory)
        shutil.copy(tiny.model.with_suffix(".bin"), draft.directory)
        draft.manifest = tiny.manifest
    assert frames_from([], bundles.read(tmp_path / "bare"))[1] == "noise of 1280x720"


def test_benchmark_app_says_why_when_it_fails(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="benchmark_app failed"):
        run_benchmark_app(tmp_path / "model.xml", RunOptions(), None, 1)


def test_the_command_writes_json_and_compares(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--seconds", "0.2", "--rounds", "1", "--compare", "--hint", "latency"]
    assert main(["benchmark", str(tiny_bundle), *words, "--json", str(tmp_path / "b.json")]) == 0
    written = json.loads((tmp_path / "b.json").read_text())
    assert written["frames"] == "1 golden frames of tiny"
    assert written["machine"]["versions"]["openvino"]
    assert written["benchmarks"][0]["app"]["throughput"] > 0
    assert "benchmark_app" in capsys.readouterr().out


def test_this_machine_has_a_processor_and_versions() -> None:
    here = this_machine()
    assert here.cpu
    assert 1 <= here.usable <= here.cores
    assert {"qzd", "python", "openvino"} <= set(here.versions)
