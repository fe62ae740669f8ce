"""`validate`: figures, gates, and messages about bad data."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from qzd_ext import bundle as bundles
from qzd_ext.errors import DataError, GateError, UsageError
from qzd_ext.manifest import Thresholds
from qzd_ext.runner import available_precisions
from qzd_tools.cli import main
from qzd_tools.data.coco import read_coco
from qzd_tools.validate.gates import check_drop, check_floor, compare
from qzd_tools.validate.run import Validation, validate, validation_thresholds
from support.painted_model import write_painted_bundle, write_painted_classes, write_painted_dataset


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the painted model as detector and classifier, and pictures for both."""
    folder = tmp_path_factory.mktemp("painted")
    write_painted_bundle(folder / "detector")
    write_painted_bundle(folder / "classifier", classifier=True)
    write_painted_dataset(folder / "boxes", 8)
    write_painted_classes(folder / "classes", 9)
    return folder


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def test_validate_finds_everything_in_painted_pictures(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    annotations = painted / "boxes" / "instances.json"
    assert run("validate", painted / "detector", "--annotations", annotations, "--json", file) == 0
    result = json.loads(file.read_text())
    bundle = bundles.read(painted / "detector")
    assert result["metrics"]["map"] == pytest.approx(1)
    assert result["metrics"]["map50"] == pytest.approx(1)
    assert result["images"] == 8
    assert result["device"] == "CPU"
    assert result["thresholds"]["confidence"] == 0.001
    assert result["thresholds"]["max_detections"] == 300
    assert result["bundle"] == {
        "name": "painted",
        "version": "1",
        "digest": bundle.digest,
        "precision": "fp32",
        "path": str(bundle.path),
    }
    assert result["dataset"] == read_coco(annotations).digest
    assert "map        1.0000" in capsys.readouterr().out


@pytest.mark.parametrize("precision", available_precisions("CPU"))
def test_validate_computes_in_the_precision_that_is_asked_for(
    painted: Path, tmp_path: Path, precision: str
) -> None:
    file = tmp_path / "result.json"
    annotations = painted / "boxes" / "instances.json"
    arguments = ("--annotations", annotations, "--precision", precision, "--json", file)
    assert run("validate", painted / "detector", *arguments) == 0
    assert json.loads(file.read_text())["inference_precision"] == precision


def test_validate_counts_classes(painted: Path, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    listed = painted / "classes" / "labels.txt"
    assert run("validate", painted / "classifier", "--imagenet", listed, "--json", file) == 0
    assert json.loads(file.read_text())["metrics"] == {"top1": 1.0, "top5": 1.0}


def test_validate_has_no_colour_on_stdout_and_nothing_on_stderr_when_piped(
    painted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("validate", painted / "detector", "--annotations", painted / "boxes" / "instances.json") == 0
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out
    assert captured.err == ""


def options(**given: object) -> list[str]:
    return [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]


@pytest.mark.parametrize(
    ("bundle", "given", "code", "words"),
    [
        ("detector", {}, 2, "no dataset"),
        ("detector", {"annotations": "boxes/instances.json", "imagenet": "classes/labels.txt"}, 2, "and"),
        ("detector", {"imagenet": "classes/labels.txt"}, 2, "is for detection"),
        ("classifier", {"annotations": "boxes/instances.json"}, 2, "is for classification"),
        ("detector", {"annotations": "boxes/instances.json", "max_drop": "0.1"}, 2, "--baseline"),
        ("detector", {"annotations": "boxes/no.json"}, 3, "no.json"),
        ("detector", {"annotations": "boxes/instances.json", "images": "classes/images"}, 3, "not exist"),
        ("detector", {"annotations": "boxes/instances.json", "device": "TPU"}, 3, "TPU is not available"),
        ("boxes", {"annotations": "boxes/instances.json"}, 3, "no bundle here"),
        ("detector", {"imagenet": "classes/labels.txt", "json": "boxes/instances.json/x"}, 2, "be written"),
    ],
)
def test_validate_says_what_is_wrong(
    painted: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    bundle: str,
    given: dict[str, str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(painted)
    assert run("validate", bundle, *options(**given)) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err


def test_validate_names_the_image_when_one_is_damaged(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_painted_dataset(tmp_path / "boxes", 3)
    (tmp_path / "boxes" / "images" / "002.png").write_bytes(b"no picture")
    assert run("validate", painted / "detector", "--annotations", file) == 3
    assert "002.png: not an image" in capsys.readouterr().err


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Three painted pictures, their annotations changed."""
    file = write_painted_dataset(folder, 3)
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    return file


def test_validate_names_the_image_when_its_annotations_are_for_another_size(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = edited(tmp_path / "boxes", lambda d: d["images"][1].update(width=4000, height=3000))
    assert run("validate", painted / "detector", "--annotations", file) == 3
    error = capsys.readouterr().err
    assert "002.png: it has" in error
    assert "annotations are for 4000x3000" in error


@pytest.mark.parametrize("left", [{"annotations": []}, {"iscrowd": 1}])
def test_validate_refuses_annotations_that_hold_nothing_to_judge_by(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], left: dict[str, int | list[Any]]
) -> None:
    def change(document: dict[str, Any]) -> None:
        if "annotations" in left:
            document.update(left)
        for one in document["annotations"]:
            one.update(left)

    file = edited(tmp_path / "boxes", change)
    assert run("validate", painted / "detector", "--annotations", file, "--fail-under", "0") == 3
    assert "no object of a class that the model knows" in capsys.readouterr().err


@pytest.mark.parametrize("offset", [-50, 10**13])
def test_validate_takes_any_category_id(painted: Path, tmp_path: Path, offset: int) -> None:
    def change(document: dict[str, Any]) -> None:
        for one in document["categories"]:
            one["id"] += offset
        for one in document["annotations"]:
            one["category_id"] += offset

    file = edited(tmp_path / "boxes", change)
    result = tmp_path / "result.json"
    assert run("validate", painted / "detector", "--annotations", file, "--json", result) == 0
    found = json.loads(result.read_text())
    assert found["metrics"]["map"] == pytest.approx(1)
    objects = json.loads(file.read_text())["annotations"]
    assert sum(one["instances"] for one in found["classes"]) == len(objects)


def test_validate_counts_no_crowd_as_an_instance(painted: Path, tmp_path: Path) -> None:
    file = edited(tmp_path / "boxes", lambda d: [one.update(iscrowd=1) for one in d["annotations"][1:]])
    result = tmp_path / "result.json"
    assert run("validate", painted / "detector", "--annotations", file, "--json", result) == 0
    assert sum(one["instances"] for one in json.loads(result.read_text())["classes"]) == 1


def test_validate_fails_when_a_byte_of_the_model_has_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_painted_bundle(tmp_path / "bundle")
    weights = tmp_path / "bundle" / bundles.WEIGHTS
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    file = write_painted_dataset(tmp_path / "boxes", 3)
    assert run("validate", tmp_path / "bundle", "--annotations", file) == 3
    assert "model.bin has sha256" in capsys.readouterr().err


def test_validate_refuses_labels_that_contradict_the_dataset(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_painted_bundle(tmp_path / "bundle", labels=("blau", "green", "red"))
    assert run("validate", tmp_path / "bundle", "--annotations", painted / "boxes" / "instances.json") == 3
    error = capsys.readouterr().err
    assert "does not have: blau" in error
    assert "does not have: blue" in error


def test_validate_judges_on_what_the_model_knows(painted: Path, tmp_path: Path) -> None:
    """Of three classes the model names one; the others of the dataset do not count."""
    write_painted_bundle(tmp_path / "bundle", labels=("blue", "", ""))
    dataset = read_coco(painted / "boxes" / "instances.json")
    result = validate(bundles.read(tmp_path / "bundle"), dataset)
    assert result.score.main == pytest.approx(1)
    assert [c.label for c in result.score.classes] == ["blue"]
    assert "knows 1 of the dataset's 3 categories" in result.note


def test_compare_says_which_classes_and_pictures_lost(painted: Path, tmp_path: Path) -> None:
    dataset = read_coco(painted / "boxes" / "instances.json")
    whole = bundles.read(painted / "detector")
    # the same model, whose labels are changed about: green and red are never right
    write_painted_bundle(tmp_path / "bundle", labels=("blue", "red", "green"))
    before = validate(whole, dataset)
    after = validate(bundles.read(tmp_path / "bundle"), dataset)
    comparison = compare(after, before, dataset)
    assert comparison.drop.value == pytest.approx(2 / 3, abs=0.01)
    assert {c.label for c, change in comparison.classes if change < -0.9} == {"green", "red"}
    assert all(was > now for _, was, now in comparison.pictures)
    losses = [was - now for _, was, now in comparison.pictures]
    assert losses == sorted(losses, reverse=True)
    with pytest.raises(GateError, match=r"accuracy fell by 0.66.*green -1.000"):
        check_drop(comparison, 0.5)
    check_drop(comparison, 0.7)


def test_a_drop_of_just_the_limit_is_within_it(painted: Path) -> None:
    """As of one picture of a hundred: 0.95 - 0.94 is a little more than 0.01 in floating point."""
    dataset = read_coco(painted / "boxes" / "instances.json")
    measured = validate(bundles.read(painted / "detector"), dataset)

    def having(figure: float) -> Validation:
        score = dataclasses.replace(measured.score, metrics={"map": figure})
        return dataclasses.replace(measured, score=score)

    for percent in range(1, 100):
        check_drop(compare(having((percent - 1) / 100), having(percent / 100), dataset), 0.01)
    with pytest.raises(GateError):
        check_drop(compare(having(0.94), having(0.9501), dataset), 0.01)


def test_validate_with_baseline_gates_on_the_drop(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_painted_bundle(tmp_path / "bundle", labels=("blue", "red", "green"))
    arguments = ("--annotations", painted / "boxes" / "instances.json", "--baseline", painted / "detector")
    file = tmp_path / "result.json"
    assert run("validate", tmp_path / "bundle", *arguments, "--max-drop", 0.1, "--json", file) == 1
    captured = capsys.readouterr()
    assert "accuracy fell by" in captured.err
    assert "images that lost most" in captured.out
    result = json.loads(file.read_text())
    assert result["drop"] == pytest.approx(0.666, abs=0.01)
    assert result["baseline"]["metrics"]["map"] == pytest.approx(1)
    assert run("validate", painted / "detector", *arguments, "--max-drop", 0) == 0


def test_a_gate_is_refused_when_nothing_can_be_lost(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that finds nothing right becomes no worse, whatever is done to it."""
    content = json.loads((painted / "boxes" / "instances.json").read_text())
    for annotation in content["annotations"]:
        annotation["bbox"] = [1, 1, 2, 2]
    (tmp_path / "elsewhere.json").write_text(json.dumps(content))
    words: tuple[object, ...] = (
        "--annotations",
        tmp_path / "elsewhere.json",
        "--images",
        painted / "boxes" / "images",
    )
    detector = painted / "detector"
    assert run("validate", detector, *words, "--baseline", detector) == 0
    assert run("validate", detector, *words, "--baseline", detector, "--max-drop", 0.1) == 3
    assert "nothing that it finds on 8 images is right" in capsys.readouterr().err
    words = tuple(str(word).replace("--", "--validation-") for word in words)
    words += ("--mode", "fp16", "--max-drop", "0.1", "-o", str(tmp_path / "new"))
    assert run("quantize", detector, *words) == 3
    assert "nothing that it finds on 8 images is right" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_validate_refuses_a_baseline_whose_labels_are_others_before_the_work(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_painted_bundle(tmp_path / "bundle", classifier=True, labels=("blue", "red", "green"))
    words = ("--imagenet", painted / "classes" / "labels.txt", "--baseline", tmp_path / "bundle")
    assert run("validate", painted / "classifier", *words) == 3
    captured = capsys.readouterr()
    assert "painted has other labels than the model that" in captured.err
    assert captured.out == ""  # before anything was measured


@pytest.mark.parametrize(("floor", "code"), [(0.9, 0), (1.0, 1)])
def test_validate_fails_under_a_floor(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], floor: float, code: int
) -> None:
    file = write_painted_dataset(tmp_path / "boxes", 12, seed=4)
    document = json.loads(file.read_text())
    document["annotations"].append({"id": 999, "image_id": 1, "category_id": 1, "bbox": [0, 0, 60, 60]})
    file.write_text(json.dumps(document))  # one object that the model cannot find
    assert run("validate", painted / "detector", "--annotations", file, "--fail-under", floor) == code
    assert ("Wanted: at least 1.0000" in capsys.readouterr().err) == bool(code)


def test_check_floor_names_the_figure(painted: Path) -> None:
    result = validate(bundles.read(painted / "detector"), read_coco(painted / "boxes" / "instances.json"))
    check_floor(result, 0.99)
    with pytest.raises(GateError, match="on 8 images"):
        check_floor(result, 1.01)


@pytest.mark.parametrize(
    ("own", "given", "iou"),
    [({}, None, 0.65), ({}, 0.5, 0.5), ({"nms": "diou", "iou": 0.5}, None, 0.5), ({"iou": 0.3}, None, 0.65)],
)
def test_validation_thresholds_keep_the_kind_of_nms(
    painted: Path, own: dict[str, Any], given: float | None, iou: float
) -> None:
    manifest = bundles.read(painted / "detector").manifest
    manifest = msgspec.structs.replace(manifest, thresholds=Thresholds(**own))
    chosen = validation_thresholds(manifest, iou=given)
    assert (chosen.confidence, chosen.iou, chosen.multi_label) == (0.001, iou, True)


def test_validate_raises_what_a_reader_of_images_raises(painted: Path, tmp_path: Path) -> None:
    file = write_painted_dataset(tmp_path / "boxes", 2)
    dataset = read_coco(file)
    (tmp_path / "boxes" / "images" / "001.png").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        validate(bundles.read(painted / "detector"), dataset)


def test_validate_raises_when_the_dataset_is_of_the_other_kind(painted: Path) -> None:
    with pytest.raises(UsageError, match="is for classification"):
        validate(bundles.read(painted / "classifier"), read_coco(painted / "boxes" / "instances.json"))


PEAK = """
import sys
from pathlib import Path
from qzd_tools.cli import main
assert main(sys.argv[1:]) == 0
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak_megabytes(folder: Path, bundle: Path, count: int) -> float:
    """Measure a process that validates with a number of large pictures, all of them the same."""
    (folder / "images").mkdir(parents=True)
    cv2.imwrite(str(folder / "images" / "0.png"), np.zeros((1200, 1600, 3), np.uint8))
    for index in range(1, count):
        (folder / "images" / f"{index}.png").hardlink_to(folder / "images" / "0.png")
    images = [{"id": i + 1, "file_name": f"{i}.png", "width": 1600, "height": 1200} for i in range(count)]
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 200, 150]}
    names = bundles.read(bundle).manifest.labels.names
    categories = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    document = {"images": images, "annotations": [box], "categories": categories}
    (folder / "instances.json").write_text(json.dumps(document))
    words = ["validate", str(bundle), "--annotations", str(folder / "instances.json")]
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", PEAK, *words]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=paths)
    return int(ran.stdout.splitlines()[-1]) / 1024


def test_validate_takes_no_more_memory_for_more_pictures(painted: Path, tmp_path: Path) -> None:
    """Thirty more would be 170 megabytes."""
    few, many = (peak_megabytes(tmp_path / str(n), painted / "detector", n) for n in (10, 40))
    assert many - few < 20


def test_validate_keeps_the_figures_when_the_bundle_may_not_be_written(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(painted / "detector", tmp_path / "bundle")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    words = ("--annotations", painted / "boxes" / "instances.json", "--json", tmp_path / "x.json", "--record")
    assert run("validate", tmp_path / "bundle", *words) == 3
    assert json.loads((tmp_path / "x.json").read_text())["metrics"]["map"] == pytest.approx(1)


def test_validate_records_in_the_bundle_that_a_link_means(painted: Path, tmp_path: Path) -> None:
    shutil.copytree(painted / "detector", tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    words = ("--annotations", painted / "boxes" / "instances.json", "--record")
    assert run("validate", tmp_path / "link", *words) == 0
    assert (tmp_path / "link").is_symlink()
    assert len(bundles.read(tmp_path / "real").manifest.accuracy) == 1


@pytest.mark.parametrize("option", ["--fail-under", "--confidence", "--iou"])
def test_validate_refuses_what_is_not_finite(
    painted: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--annotations", painted / "boxes" / "instances.json", option, "nan")
    assert run("validate", painted / "detector", *words) == 2
    assert "'nan' is not finite" in capsys.readouterr().err


def test_validate_measures_agreement_without_labels(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, images = tmp_path / "result.json", painted / "boxes" / "images"
    words = ("validate", painted / "detector", "--baseline", painted / "detector", "--images", images)
    assert run(*words, "--max-disagreement", 0, "--certainty", 0.99, "--json", file) == 0
    assert "agreement with what the baseline finds on 8 images: 1.0000" in capsys.readouterr().out
    found = json.loads(file.read_text())["agreement"]
    assert (found["value"], found["error"], found["images"]) == (1.0, 0.0, 8)


def test_validate_fails_when_models_disagree(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = bundles.read(painted / "detector").manifest
    thresholds = msgspec.structs.replace(manifest.thresholds, max_candidates=1)
    with bundles.create(worse := tmp_path / "worse") as draft:
        for name in (bundles.MODEL, bundles.WEIGHTS):
            shutil.copy(painted / "detector" / name, draft.directory)
        draft.manifest = msgspec.structs.replace(manifest, thresholds=thresholds)
    images = painted / "boxes" / "images"
    words = ("validate", worse, "--baseline", painted / "detector", "--images", images)
    assert run(*words, "--max-disagreement", 0.05) == 1
    assert "the models disagree by" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--max-disagreement", 0.1), "--max-disagreement without --baseline"),
        (("--certainty", 0.9), "--certainty without a gate"),
    ],
)
def test_validate_refuses_a_gate_without_what_it_needs(
    painted: Path, capsys: pytest.CaptureFixture[str], given: tuple[object, ...], words: str
) -> None:
    annotations = painted / "boxes" / "instances.json"
    assert run("validate", painted / "detector", "--annotations", annotations, *given) == 2
    assert words in capsys.readouterr().err


def test_validate_gives_differences_their_intervals(painted: Path, tmp_path: Path) -> None:
    file, annotations = tmp_path / "result.json", painted / "boxes" / "instances.json"
    detector = painted / "detector"
    words = ("validate", detector, "--annotations", annotations, "--baseline", detector)
    assert run(*words, "--max-drop", 0, "--certainty", 0.95, "--json", file) == 0
    document = json.loads(file.read_text())
    same = {"value": 0.0, "low": 0.0, "high": 0.0, "error": 0.0, "images": 8}
    assert document["changes"] == {"map": same, "map50": same}
    assert document["agreement"]["value"] == 1.0
