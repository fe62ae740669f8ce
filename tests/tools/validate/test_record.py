"""Accuracy recorded in a bundle's manifest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from qzd_ext import bundle as bundles
from qzd_ext.errors import BundleError
from qzd_ext.manifest import Accuracy, Thresholds
from qzd_tools.cli import main
from qzd_tools.validate.record import record
from support.painted_model import write_painted_bundle, write_painted_dataset

MEASURED = Accuracy(dataset="d", images=3, device="CPU", metrics={"map": 0.5}, thresholds=Thresholds())


def test_record_writes_the_figures_and_changes_nothing_else(tmp_path: Path, tiny_bundle: Path) -> None:
    with bundles.create(tmp_path / "copy") as draft:
        (draft.directory / "golden").mkdir()
        for name in bundles.read(tiny_bundle).manifest.files:
            (draft.directory / name).write_bytes((tiny_bundle / name).read_bytes())
        draft.manifest = bundles.read(tiny_bundle).manifest
    before = bundles.read(tmp_path / "copy")
    after = record(before, MEASURED)
    assert after.manifest.accuracy == (MEASURED,)
    assert after.manifest.files == before.manifest.files
    assert after.digest != before.digest
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_record_replaces_what_was_measured_on_the_same_data(tmp_path: Path) -> None:
    write_painted_bundle(tmp_path / "bundle")
    bundle = record(bundles.read(tmp_path / "bundle"), MEASURED)
    better = msgspec.structs.replace(MEASURED, metrics={"map": 0.6})
    other = msgspec.structs.replace(MEASURED, device="GPU")
    bundle = record(record(bundle, better), other)
    assert bundle.manifest.accuracy == (better, other)


def test_record_keeps_the_baseline_that_quantize_wrote(tmp_path: Path) -> None:
    write_painted_bundle(tmp_path / "bundle")
    quantized = msgspec.structs.replace(MEASURED, baseline={"map": 0.55})
    bundle = record(record(bundles.read(tmp_path / "bundle"), quantized), MEASURED)
    assert bundle.manifest.accuracy == (quantized,)


def test_record_keeps_what_another_run_has_recorded_meanwhile(tmp_path: Path) -> None:
    write_painted_bundle(tmp_path / "bundle")
    before = bundles.read(tmp_path / "bundle")
    other = msgspec.structs.replace(MEASURED, dataset="e")
    record(before, other)
    assert record(before, MEASURED).manifest.accuracy == (other, MEASURED)


def test_record_refuses_when_another_model_has_taken_the_bundles_place(tmp_path: Path) -> None:
    write_painted_bundle(tmp_path / "bundle")
    measured = bundles.read(tmp_path / "bundle")
    shutil.rmtree(measured.path)
    write_painted_bundle(measured.path, labels=("blue", "green", "other"))
    with pytest.raises(BundleError, match="replaced since it was measured"):
        record(measured, MEASURED)
    assert bundles.read(measured.path).manifest.accuracy == ()


def test_validate_records_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_painted_bundle(tmp_path / "bundle")
    annotations = write_painted_dataset(tmp_path / "boxes", 3)
    file = tmp_path / "result.json"
    arguments = ["validate", str(tmp_path / "bundle"), "--annotations", str(annotations)]
    assert main([*arguments, "--record", "--json", str(file)]) == 0
    bundle = bundles.read(tmp_path / "bundle")
    result = json.loads(file.read_text())
    assert bundle.manifest.accuracy[0].metrics["map"] == result["metrics"]["map"]
    assert bundle.digest == result["bundle"]["digest"]
    assert bundle.digest in capsys.readouterr().out
