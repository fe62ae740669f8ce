"""`quantize`: the bundle that it makes, the gates, and the search for a recipe."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from qzd_ext import bundle as bundles
from qzd_ext.bundle import Bundle
from qzd_ext.detections import FloatArray
from qzd_ext.detector import Detector
from qzd_ext.errors import DataError, GateError, UsageError
from qzd_ext.golden import read_golden
from qzd_tools.benchmark.throughput import throughputs
from qzd_tools.cli import main
from qzd_tools.data.coco import Dataset, read_coco
from qzd_tools.data.images import list_images
from qzd_tools.quantize import draft as draft_module
from qzd_tools.quantize import run as module
from qzd_tools.quantize.calibration import choose, kept, overlap, preparer
from qzd_tools.quantize.recipe import Recipe, apply_recipe
from qzd_tools.quantize.revert import revert_layers
from qzd_tools.quantize.run import Gate, quantize
from qzd_tools.system import isa
from qzd_tools.validate.run import Validation, validate
from support.painted_model import write_painted_bundle, write_painted_classes, write_painted_dataset
from support.processes import run_python
from support.results import instance_of
from support.waiting import until


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the painted model as detector and classifier, and pictures to calibrate and to validate with."""
    folder = tmp_path_factory.mktemp("painted")
    write_painted_bundle(folder / "detector")
    write_painted_bundle(folder / "classifier", classifier=True)
    write_painted_dataset(folder / "calibration", 12, seed=1)
    write_painted_dataset(folder / "validation", 8, seed=2)
    write_painted_classes(folder / "classes", 9)
    return folder


@pytest.fixture(scope="module")
def int8(painted: Path) -> Bundle:
    """Quantize the detector by the default recipe."""
    images = list_images(painted / "calibration" / "images")
    return quantize(bundles.read(painted / "detector"), painted / "int8", images=images).bundle


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Throughput is measured in turns of a moment: no test here asserts a speed."""
    monkeypatch.setattr(module, "throughputs", functools.partial(throughputs, rounds=1, seconds=0.02))


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def stored_weights(bundle: Bundle) -> list[np.ndarray]:
    """Return the eight bit constants of a bundle's graph."""
    model = ov.Core().read_model(bundle.model)
    constants = [node for node in model.get_ordered_ops() if node.get_type_name() == "Constant"]
    return [np.array(c.data) for c in constants if c.get_element_type() == ov.Type.i8]


def no_trace_of(folder: Path, name: str) -> bool:
    return not [p for p in folder.iterdir() if name in p.name]


def test_quantize_makes_a_bundle_that_finds_the_same(painted: Path, int8: Bundle) -> None:
    assert int8.manifest.precision == "int8"
    assert len(stored_weights(int8)) == 2  # the last layer is a small part of the model: float
    result = validate(int8, read_coco(painted / "validation" / "instances.json"))
    assert result.score.main == pytest.approx(1, abs=0.01)


def test_quantize_leaves_the_head_in_float(int8: Bundle) -> None:
    """Nothing after the last convolution is quantized: boxes, sigmoid and concatenation."""
    model = ov.Core().read_model(int8.model)
    node = model.get_results()[0].input_value(0).get_node()
    seen = []
    while node.get_type_name() not in {"Convolution", "FakeQuantize"}:
        seen.append(node.get_type_name())
        node = node.input_value(1 if node.get_type_name() == "Concat" else 0).get_node()
    assert node.get_type_name() == "Convolution"
    assert seen[0] == "Concat"


def test_quantize_records_how_it_was_done(painted: Path, int8: Bundle) -> None:
    provenance = int8.manifest.provenance
    parent = bundles.read(painted / "detector")
    assert provenance.parent == parent.digest
    assert provenance.target_isa == "any"
    assert provenance.calibration_images == 12
    images = list_images(painted / "calibration" / "images")
    assert provenance.calibration_digest == choose(images, 300, 0).digest
    assert set(provenance.tools) >= {"nncf", "openvino", "qzd"}
    made = provenance.quantization
    assert (made["mode"], made["preset"], made["seed"], made["subset_size"]) == ("int8", "mixed", 0, 300)
    assert int8.manifest.accuracy == ()


def test_golden_frames_are_made_with_the_new_model(int8: Bundle) -> None:
    golden = read_golden(int8)
    assert len(golden) == 4
    assert all(len(one.expected) > 0 for one in golden)
    with Detector(int8) as detector:
        assert detector.self_test() == []


def test_golden_frames_of_the_parent_are_kept(painted: Path, int8: Bundle, tmp_path: Path) -> None:
    """A bundle with golden frames hands its pictures on; what is found in them is the new model's."""
    parent = tmp_path / "parent"
    images = list_images(painted / "calibration" / "images")
    with bundles.create(parent) as draft:
        for name in (bundles.MODEL, bundles.WEIGHTS):
            shutil.copy(painted / "detector" / name, draft.directory)
        shutil.copytree(int8.path / "golden", draft.directory / "golden")
        (draft.directory / "golden" / "3.png").unlink()
        (draft.directory / "golden" / "3.json").unlink()
        draft.manifest = bundles.read(painted / "detector").manifest
    made = quantize(bundles.read(parent), tmp_path / "new", images=images[4:]).bundle
    pairs = list(zip(read_golden(made), read_golden(int8), strict=False))
    assert len(read_golden(made)) == 3
    assert all((a.frame == b.frame).all() for a, b in pairs)


def test_quantize_is_the_same_when_done_again(painted: Path, int8: Bundle, tmp_path: Path) -> None:
    images = list_images(painted / "calibration" / "images")
    again = quantize(bundles.read(painted / "detector"), tmp_path / "again", images=images).bundle
    assert again.manifest.files[bundles.WEIGHTS] == int8.manifest.files[bundles.WEIGHTS]


def pairs_within(weights: list[np.ndarray], limit: int) -> bool:
    """Whether no two adjacent input channels can add up to more than 16 bits hold."""
    for weight in weights:
        flat = weight.reshape(-1, *weight.shape[-3:]) if weight.ndim == 5 else weight
        left, right = flat[:, 0::2].astype(int), flat[:, 1::2].astype(int)
        count = min(left.shape[1], right.shape[1])
        sums = [np.maximum(s * left[:, :count], 0) + np.maximum(s * right[:, :count], 0) for s in (1, -1)]
        if count and max(s.max() for s in sums) > limit:
            return False
    return True


@pytest.mark.parametrize(("target", "safe"), [("any", True), ("avx2", True), ("vnni", False)])
def test_weights_cannot_saturate_unless_the_target_says_so(
    painted: Path, tmp_path: Path, target: str, safe: bool
) -> None:
    made = quantize(
        bundles.read(painted / "detector"),
        tmp_path / "new",
        recipe=Recipe(target_isa=target),
        images=list_images(painted / "calibration" / "images"),
    ).bundle
    assert pairs_within(stored_weights(made), 128) == safe
    assert made.manifest.provenance.target_isa == target


def test_golden_frames_are_the_float_models_when_the_new_one_saturates_here(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isa, "host_isa", lambda: ("avx2",))
    parent = bundles.read(painted / "detector")
    images = list_images(painted / "calibration" / "images")
    made = quantize(parent, tmp_path / "new", recipe=Recipe(target_isa="vnni"), images=images).bundle
    with Detector(parent) as detector:
        for golden in read_golden(made):
            assert detector.detect(golden.frame).found.scores.tolist() == golden.expected.scores.tolist()


def test_ignored_layers_stay_in_float(painted: Path, tmp_path: Path) -> None:
    images = painted / "calibration" / "images"
    arguments = ("quantize", painted / "detector", "--images", images, "--head-layers", "int8")
    assert run(*arguments, "-o", tmp_path / "all") == 0
    assert len(stored_weights(bundles.read(tmp_path / "all"))) == 3
    flags = ("--ignored-name", "depthwise", "--ignored-pattern", "mi.$", "--ignored-type", "Divide")
    assert run(*arguments, "-o", tmp_path / "new", *flags) == 0
    made = bundles.read(tmp_path / "new")
    assert len(stored_weights(made)) == 1
    assert made.manifest.provenance.quantization["ignored_patterns"] == ["mi.$"]


def test_quantize_measures_before_and_after_when_given_validation_data(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    images = painted / "calibration" / "images"
    validation = painted / "validation" / "instances.json"
    arguments = ("--images", images, "--validation-annotations", validation, "--json", file)
    assert run("quantize", painted / "detector", "-o", tmp_path / "new", *arguments, "--max-drop", 0.05) == 0
    accuracy = bundles.read(tmp_path / "new").manifest.accuracy[0]
    assert accuracy.images == 8
    assert accuracy.metrics["map"] == pytest.approx(1, abs=0.01)
    assert accuracy.baseline["map"] == pytest.approx(1)
    assert accuracy.dataset == read_coco(validation).digest
    result = json.loads(file.read_text())
    assert result["precision"] == "int8"
    assert result["throughput"]["after"] > 0
    assert result["drop"] == pytest.approx(accuracy.baseline["map"] - accuracy.metrics["map"])
    out = capsys.readouterr().out
    assert "throughput" in out
    assert "map " in out


def test_quantize_measures_a_classifier(painted: Path, tmp_path: Path) -> None:
    images = painted / "calibration" / "images"
    arguments = ("--images", images, "--validation-imagenet", painted / "classes" / "labels.txt")
    assert run("quantize", painted / "classifier", "-o", tmp_path / "new", *arguments) == 0
    assert bundles.read(tmp_path / "new").manifest.accuracy[0].metrics == {"top1": 1.0, "top5": 1.0}


@pytest.mark.parametrize(("after", "warned"), [(80.0, True), (99.0, False), (150.0, False)])
def test_quantize_says_that_it_is_slower_than_float(
    painted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    after: float,
    warned: bool,
) -> None:
    monkeypatch.setattr(module, "throughputs", lambda *_: [100.0, after])
    assert run("quantize", painted / "detector", "--mode", "fp16", "-o", tmp_path / "new") == 0
    out = capsys.readouterr().out
    assert f"100.0 -> {after:8.1f} inferences per second" in out
    assert (f"slower than float on this machine, {after} against 100.0 per second" in out) == warned


@pytest.mark.parametrize(("mode", "least", "most"), [("int8-weights", 0.2, 0.4), ("fp16", 0.4, 0.65)])
def test_modes_without_data_are_smaller_and_find_the_same(
    painted: Path, tmp_path: Path, mode: str, least: float, most: float
) -> None:
    assert run("quantize", painted / "detector", "--mode", mode, "-o", tmp_path / "new") == 0
    made = bundles.read(tmp_path / "new")
    assert made.manifest.precision == mode
    sizes = [(path / bundles.WEIGHTS).stat().st_size for path in (made.path, painted / "detector")]
    assert least < sizes[0] / sizes[1] < most
    result = validate(made, read_coco(painted / "validation" / "instances.json"))
    assert result.score.main == pytest.approx(1, abs=0.003)


def options(**given: object) -> list[str]:
    return [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]


IMAGES = "calibration/images"
COCO = {"validation_annotations": "validation/instances.json"}
LIST = {"validation_imagenet": "classes/labels.txt"}


@pytest.mark.parametrize(
    ("bundle", "given", "code", "words"),
    [
        ("detector", {}, 2, "without images to calibrate with"),
        ("detector", {"images": IMAGES, "ignored_pattern": "model.22"}, 2, "matches nothing"),
        ("detector", {"images": IMAGES, "ignored_pattern": ".*"}, 3, "nothing in the model was quantized"),
        ("detector", {"images": IMAGES, "max_drop": 0.01}, 2, "--max-drop without validation data"),
        ("detector", {"images": IMAGES, **COCO, **LIST}, 2, "COCO annotations and an ImageNet list"),
        ("classifier", {"images": IMAGES, **COCO}, 2, "a classifier a list of files"),
        ("detector", {"images": IMAGES, "max_drop": "nan"}, 2, "'nan' is not finite"),
        ("detector", {"images": IMAGES, "time_budget": "inf"}, 2, "'inf' is not finite"),
        ("detector", {"images": IMAGES, "target_isa": "sse9"}, 2, "sse9"),
        ("detector", {"mode": "fp16", "ignored_type": "Divide"}, 2, "--ignored-type with --mode fp16"),
        ("detector", {"mode": "int8-weights", "target_isa": "vnni"}, 2, "--target-isa with --mode"),
        ("detector", {"mode": "fp16", "images": IMAGES}, 2, "--images with --mode fp16"),
        ("detector", {"mode": "int8-weights", "seed": 1}, 2, "--seed with --mode int8-weights"),
        ("detector", {"images": IMAGES, "device": "TPU"}, 3, "TPU is not available"),
        ("detector", {"images": "labels"}, 3, "labels.txt: not an image"),
        ("detector", {"images": "nowhere"}, 3, "no such directory"),
        ("detector", {"images": IMAGES, "subset_size": 2}, 2, "2 is not in the range x>=3"),
        ("detector", {"mode": "fp16", "time_budget": 9, **COCO, "max_drop": 0.1}, 2, "--time-budget with"),
        ("int8", {"images": IMAGES}, 2, "quantized already"),
        ("int8", {"mode": "fp16"}, 2, "quantized already"),
        ("calibration", {"images": IMAGES}, 3, "no bundle here"),
    ],
)
def test_quantize_says_what_is_wrong_and_writes_nothing(
    painted: Path,
    int8: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    bundle: str,
    given: dict[str, float | str],
    code: int,
    words: str,
) -> None:
    shutil.copytree(painted, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")
    Path("labels").mkdir()
    Path("labels/labels.txt").write_text("person")
    assert run("quantize", bundle, "-o", tmp_path / "new", *options(**given)) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert no_trace_of(tmp_path, "new")


def test_quantize_does_not_replace_its_own_parent(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(painted / "detector", tmp_path / "parent")
    (tmp_path / "link").symlink_to(tmp_path / "parent")
    arguments = ("--mode", "fp16", "-o", tmp_path / "link", "--overwrite")
    assert run("quantize", tmp_path / "parent", *arguments) == 2
    assert "is the bundle that is quantized" in capsys.readouterr().err
    assert bundles.read(tmp_path / "parent").manifest.precision == "fp32"


def test_quantize_names_the_file_that_is_no_image(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(painted / "calibration" / "images", tmp_path / "images")
    (tmp_path / "images" / "notes.txt").write_text("hello")
    assert run("quantize", painted / "detector", "--images", tmp_path / "images", "-o", tmp_path / "new") == 3
    assert "notes.txt: not an image" in capsys.readouterr().err
    assert no_trace_of(tmp_path, "new")


def test_quantize_refuses_to_replace_unless_told(
    painted: Path, int8: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    images = painted / "calibration" / "images"
    before = bundles.read(painted / "int8").digest
    assert run("quantize", painted / "detector", "--images", images, "-o", painted / "int8") == 3
    assert "a bundle is there already" in capsys.readouterr().err
    assert bundles.read(painted / "int8").digest == before


def test_quantize_refuses_images_that_are_in_both_sets(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By content: the copy has another name."""
    shutil.copytree(painted / "calibration" / "images", tmp_path / "images")
    shutil.copy(painted / "validation" / "images" / "003.png", tmp_path / "images" / "other.png")
    validation = ("--validation-annotations", painted / "validation" / "instances.json")
    arguments = ("--images", tmp_path / "images", "-o", tmp_path / "new", *validation)
    assert run("quantize", painted / "detector", *arguments) == 2
    error = capsys.readouterr().err
    assert "1 of 13 calibration images are validation images too" in error
    assert "other.png" in error
    assert "003.png" in error
    assert run("quantize", painted / "detector", *arguments, "--allow-overlap") == 0
    assert "warning: 1 of 13" in capsys.readouterr().out


def broken_judge(monkeypatch: pytest.MonkeyPatch, drops: list[float]) -> None:
    """Make INT8 look worse than it is: the real figures less what the list says, by attempt."""
    real = validate

    def worse(bundle: Bundle, dataset: Dataset, **given: Any) -> Validation:
        result = real(bundle, dataset, **given)
        if bundle.manifest.precision == "fp32":
            return result
        drop = drops.pop(0) if len(drops) > 1 else drops[0]
        metrics = {**result.score.metrics, "map": result.score.main - drop}
        return dataclasses.replace(result, score=dataclasses.replace(result.score, metrics=metrics))

    monkeypatch.setattr(module, "validate", worse)
    monkeypatch.setattr(draft_module, "validate", worse)


def gated(
    painted: Path, destination: Path, said: list[str], recipe: Recipe = Recipe(), **given: float
) -> Bundle:
    gate = Gate(dataset=read_coco(painted / "validation" / "instances.json"), **given)
    images = list_images(painted / "calibration" / "images")
    parent = bundles.read(painted / "detector")
    made = quantize(
        parent, destination, recipe=recipe, images=images, gate=gate, say=said.append, overwrite=True
    )
    if made.missed is not None:
        raise made.missed
    return made.bundle


@pytest.mark.parametrize(
    ("head_layers", "drops", "tried"),
    [("int8", [0.5, 0.4, 0.0], ["the head's last layers in float"]), ("auto", [0.5, 0.0], [])],
)
def test_search_stops_at_the_first_recipe_within_the_limit(
    painted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    head_layers: Literal["auto", "int8"],
    drops: list[float],
    tried: list[str],
) -> None:
    """Where the head's last layers are in float already, that is not tried."""
    broken_judge(monkeypatch, drops)
    said: list[str] = []
    made = gated(painted, tmp_path / "new", said, Recipe(head_layers=head_layers), max_drop=0.1)
    assert made.manifest.provenance.quantization["smooth_quant"] is True
    steps = [text.partition(":")[0] for text in said if "drop" in text]
    assert steps == ["plain recipe", *tried, "smooth quantization"]


def test_search_reverts_layers_and_keeps_the_best_when_all_miss(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_judge(monkeypatch, [0.5, 0.45, 0.45, 0.3, 0.2])
    said: list[str] = []
    with pytest.raises(GateError, match=r"accuracy fell by 0\.2"):
        gated(painted, tmp_path / "new", said, max_drop=0.1)
    made = bundles.read(tmp_path / "new")
    assert made.manifest.accuracy[0].metrics["map"] == pytest.approx(0.8, abs=0.01)
    reverted = made.manifest.provenance.quantization["layers_reverted_to_float"]
    assert len(instance_of(list, reverted)) == 2
    assert len(stored_weights(made)) == 0
    assert any("2 layers that cost most in float" in text for text in said)
    with Detector(made) as detector:
        assert detector.self_test() == []


def two_layers() -> ov.Model:
    """Two convolutions of one input, whose channels have ranges from 1 to 1000."""
    rng = np.random.default_rng(0)
    frame = ops.parameter([1, 4, 8, 8], ov.Type.f32, name="frame")
    source = ops.relu(
        ops.multiply(frame, np.array([1, 10, 100, 1000], np.float32).reshape(1, 4, 1, 1)), name="source"
    )
    results = []
    for name in ("left", "right"):
        weights, bias = rng.normal(size=(6, 4, 3, 3)), rng.normal(size=(1, 6, 1, 1))
        layer = ops.convolution(source, weights.astype(np.float32), [1, 1], [1, 1], [1, 1], [1, 1], name=name)
        results.append(ops.add(layer, bias.astype(np.float32)))
    return ov.Model(results, [frame], "two")


def saved(folder: Path, inputs: list[FloatArray]) -> list[Path]:
    """Write inputs as files that `np.load` reads; returns their paths."""
    paths = [folder / f"{index}.npy" for index in range(len(inputs))]
    for path, array in zip(paths, inputs, strict=True):
        np.save(path, array)
    return paths


@pytest.mark.parametrize("smooth", [False, True])
def test_reverted_layers_have_the_weights_and_biases_of_the_float_model(tmp_path: Path, smooth: bool) -> None:
    """With smoothing too, whose Multiply stands before both layers and whose inverse is in their weights."""
    original, rng = two_layers(), np.random.default_rng(1)
    inputs = [rng.random((1, 4, 8, 8)).astype(np.float32) for _ in range(4)]
    recipe = Recipe(head_layers="int8", smooth_quant=smooth)
    quantized = apply_recipe(original, saved(tmp_path, inputs), np.load, recipe)

    def off(names: list[str]) -> list[float]:
        models = (original, revert_layers(quantized, original, names))
        wanted, now = (ov.Core().compile_model(m, "CPU")(inputs[0]) for m in models)
        return [float(abs(now[i] - wanted[i]).max() / abs(wanted[i]).max()) for i in (0, 1)]

    assert min(off([])) > 1e-3
    left, right = off(["left"])
    assert left < 1e-5 < right
    assert max(off(["left", "right"])) < 1e-5


@pytest.mark.parametrize(("ignored", "smoothed"), [((), 2), (("left",), 1)])
def test_smoothing_moves_ranges_into_the_weights_of_what_is_quantized(
    tmp_path: Path, ignored: tuple[str, ...], smoothed: int
) -> None:
    original, rng = two_layers(), np.random.default_rng(1)
    inputs = [rng.random((1, 4, 8, 8)).astype(np.float32) for _ in range(4)]
    recipe = Recipe(head_layers="int8", smooth_quant=True, ignored_names=ignored)
    quantized = apply_recipe(original, saved(tmp_path, inputs), np.load, recipe)
    kept = [n for n in quantized.get_ordered_ops() if n.get_friendly_name() in {"left", "right"}]
    sources = [n.input_value(0).get_node() for n in kept]
    before = [s.input_value(0).get_node() for s in sources if s.get_type_name() == "FakeQuantize"]
    assert [node.get_type_name() for node in before] == ["Multiply"] * smoothed


def test_search_ends_with_the_time_and_leaves_what_was_there(
    painted: Path, int8: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(int8.path, tmp_path / "new")
    broken_judge(monkeypatch, [0.5])
    said: list[str] = []
    with pytest.raises(GateError):
        gated(painted, tmp_path / "new", said, max_drop=0.1, time_budget=0.0)
    assert any(line.startswith("the time budget of 0 s has no room for another step") for line in said)
    assert not any(line.startswith("smooth quantization") for line in said)
    assert bundles.read(tmp_path / "new").digest == int8.digest


@pytest.mark.parametrize("there", ["nothing", "empty", "bundle"])
def test_a_missed_gate_exits_with_one_and_still_writes_its_figures(
    painted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    there: str,
) -> None:
    """A bundle that was there stays; else the best that was found is written."""
    broken_judge(monkeypatch, [0.5])
    if there == "empty":
        (tmp_path / "new").mkdir()
    if there == "bundle":
        shutil.copytree(painted / "detector", tmp_path / "new")
    arguments = ("--validation-annotations", painted / "validation" / "instances.json", "--time-budget", 0)
    images = painted / "calibration" / "images"
    file = tmp_path / "x.json"
    words: tuple[object, ...] = (
        "--images",
        images,
        *arguments,
        "--max-drop",
        0.1,
        "--json",
        file,
        "-o",
        tmp_path / "new",
    )
    words += ("--overwrite",)
    assert run("quantize", painted / "detector", *words) == 1
    result = json.loads(file.read_text())
    assert result["drop"] == pytest.approx(0.5, abs=0.01)
    assert result["missed"].startswith("accuracy fell by 0.5")
    assert (result["bundle"] is None) == (there == "bundle")
    assert bundles.read(tmp_path / "new").manifest.precision == ("fp32" if there == "bundle" else "int8")
    assert "accuracy fell by 0.5" in capsys.readouterr().err


def test_quantize_names_the_new_bundle_after_its_parent_when_that_is_a_dot(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(painted / "detector", tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    assert run("quantize", ".", "--mode", "fp16") == 0
    assert bundles.read(tmp_path / "mine-fp16").manifest.precision == "fp16"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_quantize_leaves_nothing_when_interrupted(
    painted: Path, tmp_path: Path, number: signal.Signals
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for index in range(150):
        assert cv2.imwrite(str(images / f"{index}.png"), rng.integers(0, 255, (200, 200, 3)).astype(np.uint8))
    arguments = ["quantize", str(painted / "detector"), "--images", str(images), "-o", str(tmp_path / "new")]
    with subprocess.Popen(
        [sys.executable, "-m", "qzd_tools.cli", *arguments],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=dict(os.environ),
    ) as process:  # fmt: skip
        until(lambda: list(tmp_path.glob(".new.*")) or process.poll() is not None)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 4, err
    assert re.fullmatch(r"\n?qzd-tools: interrupted.*\n", err)
    assert no_trace_of(tmp_path, "new")


@pytest.mark.parametrize("limit", [4_000, 15_000])
def test_quantize_leaves_nothing_when_there_is_no_space(painted: Path, tmp_path: Path, limit: int) -> None:
    """Files may not grow beyond a limit: as on a full disk, a write stops in the middle."""
    code = (
        "import resource, sys; from qzd_tools.cli import main\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        f"sys.exit(main(['quantize', '--mode', 'fp16', {str(painted / 'detector')!r}, "
        f"'-o', {str(tmp_path / 'new')!r}]))"
    )
    done = run_python(code)
    assert done.returncode == 3, done.stderr
    assert f"{tmp_path / 'new'}: cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert no_trace_of(tmp_path, "new")


def test_choose_draws_the_same_with_the_same_seed(painted: Path) -> None:
    images = list_images(painted / "calibration" / "images")
    first, same, other = (choose(images, 6, seed) for seed in (1, 1, 2))
    assert first.images == same.images != other.images
    assert len(set(first.images)) == 6
    assert list(first.images) == sorted(first.images)


def test_images_are_decoded_once_for_all_passes(painted: Path) -> None:
    spec = bundles.read(painted / "detector").manifest.input
    path = list_images(painted / "calibration" / "images")[0]
    prepare = kept(preparer(spec), spec)
    assert prepare(path) is prepare(path)
    np.testing.assert_array_equal(prepare(path), preparer(spec)(path))


def test_choose_fails_when_there_are_too_few(painted: Path) -> None:
    with pytest.raises(DataError, match="2 images to calibrate with"):
        choose(list_images(painted / "calibration" / "images")[:2], 300, 0)


def test_overlap_is_empty_when_sets_differ(painted: Path) -> None:
    calibration = choose(list_images(painted / "calibration" / "images"), 300, 0)
    other = list_images(painted / "validation" / "images")
    assert overlap(calibration, other, allowed=False) == ""
    with pytest.raises(UsageError, match="12 of 12"):
        overlap(calibration, list(calibration.images), allowed=False)


def test_calibration_sees_what_the_detector_sees(painted: Path) -> None:
    """The prepared input is that of `geometry.prepare`, with its batch."""
    bundle = bundles.read(painted / "detector")
    path = list_images(painted / "calibration" / "images")[0]
    prepared = preparer(bundle.manifest.input)(path)
    assert prepared.shape == (1, 64, 64, 3)
    assert prepared.dtype == np.uint8
    assert (prepared[0] == cv2.imread(str(path))).all()


@pytest.mark.parametrize(
    ("drop", "certainty", "held"),
    [(0.0, None, True), (0.0, 0.95, True), (0.3, None, False)],
    ids=["nothing lost", "surely nothing lost", "much lost"],
)
def test_gates_hold_with_the_certainty_that_is_asked_for(
    painted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    drop: float,
    certainty: float | None,
    held: bool,
) -> None:
    broken_judge(monkeypatch, [drop])
    gate = Gate(
        dataset=read_coco(painted / "validation" / "instances.json"),
        max_drop=0.1,
        max_disagreement=0.2,
        certainty=certainty,
        time_budget=0.0,
    )
    images = list_images(painted / "calibration" / "images")
    made = quantize(bundles.read(painted / "detector"), tmp_path / "new", images=images, gate=gate)
    assert (made.missed is None) == held
    accuracy = made.bundle.manifest.accuracy[0]
    assert set(accuracy.change) == {"map", "map50"}
    assert accuracy.agreement["value"] == pytest.approx(1, abs=0.05)
