"""`prepare`: a run that is killed at any step ends with the same results as one that is not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openvino as ov
import pytest

from qzd_ext import bundle as bundles
from qzd_ext.runner import available_precisions
from qzd_tools.cli import main
from qzd_tools.demo import dataset
from qzd_tools.demo.scene import LABELS
from support.http_server import Mirror, serve
from support.painted_images import write_painted
from support.tiny_model import COLOURS, build_model

BF16 = "bf16" in available_precisions("CPU")
STEPS = [
    "download", "convert", "quantize fp16", "quantize int8-weights", "quantize int8", "validate original",
    "validate fp16", "validate int8-weights", "validate int8", *(["validate bf16"] if BF16 else []),
    "benchmark", "report",
]  # fmt: skip
FLOATS = ["FP32", "BF16"] if BF16 else ["FP32"]
QUICK = ["--seconds", "0.2", "--rounds", "1"]


@dataclass(frozen=True)
class Model:
    """How a model is prepared, and where."""

    words: list[str]
    output: Path

    def command(self, *more: str, output: Path | None = None) -> list[str]:
        return ["prepare", *self.words, "-o", str(output or self.output), *more]

    def start(self, *more: str, output: Path | None = None) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "qzd_tools.cli", *self.command(*more, output=output)]
        paths = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=paths)


def outcome(output: Path) -> dict[str, object]:
    """Return what must be the same however often a run was killed: digests and figures of accuracy."""
    bundles = sorted(p.parent for p in output.glob("*/bundle.toml"))
    found: dict[str, object] = {
        b.name: hashlib.sha256((b / "bundle.toml").read_bytes()).hexdigest() for b in bundles
    }
    for path in sorted((output / "results").glob("validate-*.json")):
        found[path.stem] = json.loads(path.read_text())["metrics"]
    return found | {"files": sorted(p.name for p in output.iterdir())}


def kill_at(model: Model, step: str, output: Path, delay: float) -> bool:
    """Start a run, and kill it a little after it says that it begins a step; False where that is done."""
    process = model.start(output=output)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.strip() == f"{step} ...":
                time.sleep(delay)
                process.send_signal(signal.SIGKILL)
                break
    finally:
        process.stdout.close()
        process.wait()
    return process.returncode == -signal.SIGKILL


def run(model: Model, output: Path, json_file: Path) -> dict[str, str]:
    process = model.start("--json", str(json_file), output=output)
    text, _ = process.communicate()
    assert process.returncode == 0, text
    return dict(json.loads(json_file.read_text())["steps"])


def tables_of(output: Path) -> dict[str, list[list[str]]]:
    """Every table of the Markdown by its title: rows of cells, the header first."""
    tables: dict[str, list[list[str]]] = {}
    title = ""
    for line in (output / "report.md").read_text().splitlines():
        if line.startswith("## "):
            title = line[3:]
        elif line.startswith("| ") and not line.startswith("| ---"):
            tables.setdefault(title, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return tables


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Write a model that quantizes to FP16 in no time, with images that it finds everything on."""
    directory = tmp_path_factory.mktemp("tiny-model")
    ov.save_model(build_model(), directory / "tiny.xml", compress_to_fp16=False)
    (directory / "labels.txt").write_text("\n".join(COLOURS))
    calibration = write_painted(directory / "calibration", first=100)
    validation = write_painted(directory / "validation")
    flags = f"--labels {directory / 'labels.txt'} --head yolo_v8"
    flags += " --color bgr --mean 0 --scale 1 --resize stretch"
    words = [str(directory / "tiny.xml"), "--convert", flags, "--mode", "fp16"]
    data = ["--calibration", str(calibration), "--validation", str(validation)]
    return Model([*words, *data, *QUICK], directory / "out")


@pytest.fixture(scope="module")
def prepared(tiny_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    steps = run(tiny_model, tiny_model.output, tmp_path_factory.mktemp("json") / "p.json")
    assert set(steps.values()) == {"done"}
    return tiny_model


def test_prepare_ends_in_a_report_whose_tables_are_filled(prepared: Model) -> None:
    tables = tables_of(prepared.output)
    assert [row[0] for row in tables["Accuracy and time"][1:]] == [*FLOATS, "FP16"]
    wanted = ["Time to quantize, s", "Size, MB", "Accuracy, mAP", "Inference time, ms"]
    assert [row[0] for row in tables["What each kind of quantization takes and gives"][1:]] == wanted
    assert "<svg" in (prepared.output / "report.html").read_text()


def test_prepare_says_that_sets_overlap_before_it_quantizes(
    tiny_model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in tiny_model.words if word != "fp16"]
    for file in Path(words[0]).parent.glob("tiny.*"):
        shutil.copy(file, tmp_path / f"my model{file.suffix}")  # no name for a bundle as it stands
    words[0] = str(tmp_path / "my model.xml")
    words[words.index("--mode") : words.index("--mode") + 1] = ["--mode", "fp16", "--mode", "int8"]
    at = words.index("--calibration") + 1
    words[at] = words[words.index("--validation") + 1]
    assert main(["prepare", *words, "-o", str(tmp_path / "out")]) == 2
    assert "calibration images are validation images too" in capsys.readouterr().err
    assert not (tmp_path / "out" / "fp16").exists()
    assert bundles.read(tmp_path / "out" / "original").manifest.name == "my_model"


def test_prepare_does_nothing_when_everything_is_done(prepared: Model, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in prepared.output.rglob("*") if p.name != ".lock"}
    steps = run(prepared, prepared.output, tmp_path / "p.json")
    assert set(steps.values()) == {"there"}
    assert before == {p: p.stat().st_mtime_ns for p in prepared.output.rglob("*") if p.name != ".lock"}


def test_prepare_does_again_what_depends_on_a_damaged_result(prepared: Model, tmp_path: Path) -> None:
    output = shutil.copytree(prepared.output, tmp_path / "out")
    (output / "fp16" / "labels.txt").write_text("damaged")
    (output / "results" / "validate-original.json").unlink()
    steps = run(prepared, output, tmp_path / "p.json")
    done = [name for name, state in steps.items() if state == "done"]
    assert done == ["quantize fp16", "validate original", "report"]
    assert outcome(output) == outcome(prepared.output)


def test_prepare_leaves_the_bundle_before_when_the_device_is_not_here(
    prepared: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = shutil.copytree(prepared.output, tmp_path / "out")
    before = bundles.read(output / "fp16").digest
    assert main(prepared.command("--device", "TPU", output=output)) == 3
    captured = capsys.readouterr()
    assert "TPU is not available" in captured.err
    assert "quantize fp16: done already" not in captured.out  # it has the speed on the other device
    assert bundles.read(output / "fp16").digest == before


def test_prepare_converts_again_when_the_file_with_the_labels_has_changed(
    prepared: Model, tmp_path: Path
) -> None:
    output = shutil.copytree(prepared.output, tmp_path / "out")
    labels = Path(prepared.words[0]).parent / "labels.txt"
    before = labels.read_text()
    labels.write_text(before.upper())
    try:
        assert run(prepared, output, tmp_path / "p.json")["convert"] == "done"
    finally:
        labels.write_text(before)
    assert (output / "fp16" / "labels.txt").read_text().split() == before.upper().split()


def test_prepare_misses_the_validation_data_before_it_begins(
    tiny_model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tiny_model.command("--validation", str(tmp_path / "no.json"), output=tmp_path / "out")
    assert main(words) == 3
    assert "no.json: no such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_prepare_ends_the_same_when_it_was_killed(prepared: Model, tmp_path: Path) -> None:
    assert kill_at(prepared, "quantize fp16", tmp_path / "out", 0.05)
    run(prepared, tmp_path / "out", tmp_path / "p.json")
    assert outcome(tmp_path / "out") == outcome(prepared.output)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no-such-model"], "not in the catalogue"),
        (["yolo-v4-tf", "--convert", "--golden x"], "prepare's own to give"),
        (["yolo-v4-tf", "--convert", "--labels 'coco80"], "No closing quotation"),
        (["yolo-v4-tf", "more"], "one name of the catalogue"),
    ],
)
def test_prepare_says_what_is_wrong_before_it_begins(
    tiny_model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    data = tiny_model.words[tiny_model.words.index("--calibration") :]
    assert main(["prepare", *words, *data, "-o", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def loopback(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mirror, Path]]:
    """Serve two real models, with the catalogue that leads to them."""
    directory = tmp_path_factory.mktemp("mirror")
    name = "ssd_mobilenet_v1_coco"
    with tarfile.open(directory / f"{name}.tar.gz", "w:gz") as archive:
        for suffix in ("xml", "bin"):
            archive.add(data / "models" / f"{name}.{suffix}", f"{name}/{name}.{suffix}")
    files = {
        name: [directory / f"{name}.tar.gz"],
        "yolo-fastest": [data / "darknet" / f"yolo-fastest-1.1-xl.{s}" for s in ("cfg", "weights")],
    }
    models = {name: [f"{name}/{name}.xml"], "yolo-fastest": [p.name for p in files["yolo-fastest"]]}
    labels = {name: "coco91", "yolo-fastest": "coco80"}
    with serve() as mirror:
        lines = []
        for model, paths in files.items():
            lines += [f"[{model}]", f'title = "{model}"', 'task = "detection"', 'format = "test"']
            lines += ['licence = "its owner\'s"', f"model = {json.dumps(models[model])}"]
            lines += [f'convert = {{ labels = "{labels[model]}" }}']
            for path in paths:
                content = path.read_bytes()
                mirror.files[f"{model}/{path.name}"] = content
                lines += [f"[[{model}.files]]", f'name = "{path.name}"', f"bytes = {len(content)}"]
                lines += [f'addresses = ["{mirror.address}/third/{model}/{path.name}"]']
                lines += [f'checksum = "sha384:{hashlib.sha384(content).hexdigest()}"']
                lines += ["unpack = true"] if path.name.endswith(".tar.gz") else []
        (directory / "catalogue.toml").write_text("\n".join(lines))
        yield mirror, directory / "catalogue.toml"


def few(source: Path, target: Path, count: int) -> Path:
    """Return the first images of a data set; those to calibrate with lie beside their annotations."""
    coco = json.loads((source / "instances.json").read_text())
    coco["images"] = sorted(coco["images"], key=lambda image: image["id"])[:count]
    kept = {image["id"] for image in coco["images"]}
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in kept]
    target.write_text(json.dumps(coco))
    (target.parent / "images").mkdir(exist_ok=True)
    for image in coco["images"]:
        (target.parent / "images" / image["file_name"]).symlink_to(source / "images" / image["file_name"])
    return target


@pytest.mark.models
@pytest.mark.parametrize("name", ["ssd_mobilenet_v1_coco", "yolo-fastest"])
def test_prepare_of_a_real_model_ends_the_same_when_it_is_killed_at_each_step(
    loopback: tuple[Mirror, Path], data: Path, tmp_path: Path, name: str
) -> None:
    words = [name, "--catalogue", str(loopback[1]), "--seconds", "1", "--rounds", "2", "--compare"]
    words += ["--calibration", str(few(data / "coco/calibration", tmp_path / "calibration.json", 24))]
    words += ["--validation", str(few(data / "coco/validation", tmp_path / "validation.json", 40))]
    words += ["--validation-images", str(data / "coco/validation/images")]
    model = Model(words, tmp_path / "whole")
    steps = run(model, model.output, tmp_path / "p.json")
    assert steps == dict.fromkeys(STEPS, "done")
    tables = tables_of(model.output)
    for title in ("Accuracy and time", "What each kind of quantization takes and gives", "Speed"):
        cells = [cell for row in tables[title][1:] for cell in row]
        assert cells.count("-") <= 1, title  # the original took no time to quantize, and changed nothing
    asked = len(loopback[0].requests)
    assert set(run(model, model.output, tmp_path / "p.json").values()) == {"there"}
    assert len(loopback[0].requests) == asked
    steps_in_order = [step for step in STEPS if step not in ("validate original", "validate int8")]
    killed = [
        kill_at(model, step, tmp_path / "killed", 0.02 + 0.3 * (index % 3))
        for index, step in enumerate(steps_in_order)
    ]
    assert sum(killed) >= len(killed) // 2, killed  # a fast machine may be further when the signal comes
    run(model, tmp_path / "killed", tmp_path / "p.json")
    assert outcome(tmp_path / "killed") == outcome(model.output)


@pytest.mark.models
def test_prepare_reports_and_exits_with_1_each_time_when_the_gate_is_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(dataset.__file__).with_name("parts.onnx")
    dataset.write_dataset(tmp_path / "calibration", 4, dataset.CALIBRATION_SEED)
    validation = dataset.write_dataset(tmp_path / "validation", 8, dataset.VALIDATION_SEED)
    flags = f"--head yolo_v8 --labels {','.join(LABELS)} --resize letterbox --color rgb --mean 0 --scale 255"
    words = [str(model), "--convert", flags, "--calibration", str(tmp_path / "calibration" / "images")]
    words += ["--validation", str(validation), "--mode", "int8", "--max-drop", "0", "--time-budget", "0"]
    prepare = ["prepare", *words, *QUICK, "-o", str(tmp_path / "out"), "--json", str(tmp_path / "p.json")]
    states = []
    for _ in range(2):
        assert main(prepare) == 1
        assert "accuracy fell by" in capsys.readouterr().err
        document = json.loads((tmp_path / "p.json").read_text())
        assert "accuracy fell by" in document["missed"]
        states.append(set(document["steps"].values()))
    assert states == [{"done"}, {"there"}]
    tables = tables_of(tmp_path / "out")
    assert [row[0] for row in tables["Accuracy and time"][1:]] == [*FLOATS, "INT8"]
    assert float(tables["What each kind of quantization takes and gives"][1][2]) > 0
