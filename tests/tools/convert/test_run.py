"""`convert`, from a model file to a bundle that detects."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops
from openvino.preprocess import ColorFormat, PrePostProcessor

from qzd_ext import bundle as bundles
from qzd_ext.detector import Detector
from qzd_ext.errors import BundleError, DataError, UsageError
from qzd_ext.golden import read_golden
from qzd_ext.manifest import YoloAnchor
from qzd_tools.cli import main
from qzd_tools.convert.run import ConvertOptions, convert
from qzd_tools.quantize.draft import Mode
from qzd_tools.quantize.run import quantize
from support import detector_graphs
from support.classifiers import ARCHITECTURES
from support.processes import run_python
from support.results import instance_of


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def write(folder: Path, model: ov.Model) -> Path:
    path = folder / f"{model.get_friendly_name()}.xml"
    ov.save_model(model, path, compress_to_fp16=False)
    return path


def open_in_size() -> ov.Model:
    """Build a graph for pictures of any size, with a constant to fold as large as the picture."""
    frame = detector_graphs.picture((1, 3, -1, -1))
    ones = ops.broadcast(np.float32(1), ops.shape_of(frame))
    scores = ops.softmax(ops.reduce_mean(ops.multiply(frame, ones), np.array([2, 3])), 1)
    return ov.Model([scores], [frame], "open")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (40, 60, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), noise)
    return folder


def test_convert_writes_a_bundle_that_detects_and_says_why(tmp_path: Path) -> None:
    said: list[str] = []
    bundle = convert([write(tmp_path, detector_graphs.yolox())], tmp_path / "bundle", say=said.append)
    manifest = bundle.manifest
    assert (manifest.name, manifest.task, manifest.precision) == ("yolox", "detection", "fp32")
    assert (manifest.input.resize, manifest.input.anchor, manifest.input.pad) == ("letterbox", "corner", 114)
    assert manifest.labels.category_ids[79] == 90
    assert tuple(said) == manifest.provenance.notes
    assert any(line.startswith("head: yolox: ") for line in said)
    assert any("coco80, since 80 classes" in line for line in said)
    assert set(manifest.provenance.source) == {"yolox.xml", "yolox.bin"}
    assert set(manifest.provenance.tools) == {"qzd", "openvino"}
    with Detector(bundle) as detector:
        detector.detect(np.zeros((30, 50, 3), np.uint8))


def test_convert_keeps_golden_frames_that_pass_the_self_test(tmp_path: Path, pictures: Path) -> None:
    options = ConvertOptions(golden=[pictures], confidence=0.01)
    bundle = convert([write(tmp_path, detector_graphs.yolox())], tmp_path / "bundle", options)
    golden = read_golden(bundle)
    assert len(golden) == 4
    assert sum(len(g.expected) for g in golden) > 0
    with Detector(bundle) as detector:
        assert detector.self_test() == []


def test_convert_refuses_scores_that_are_none(tmp_path: Path, pictures: Path) -> None:
    options = ConvertOptions(head="yolox", golden=[pictures], confidence=0.01)
    with pytest.raises(DataError, match=r"no sound model gives[\s\S]*sigmoid"):
        convert([write(tmp_path, detector_graphs.yolox(activated=False))], tmp_path / "bundle", options)
    assert not (tmp_path / "bundle").exists()


def test_convert_makes_golden_frames_small(tmp_path: Path) -> None:
    large = np.random.default_rng(0).integers(0, 256, (900, 1600, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "large.png"), large)
    options = ConvertOptions(golden=[tmp_path / "large.png"], labels="a,b,c,d,e,f,g,h,i,j", color="rgb",
                             mean=(0.0,), scale=(1.0,))  # fmt: skip
    bundle = convert([write(tmp_path, detector_graphs.classifier())], tmp_path / "bundle", options)
    assert read_golden(bundle)[0].frame.shape == (360, 640, 3)


def test_convert_halves_the_weights_when_asked_for_fp16(tmp_path: Path) -> None:
    model = write(tmp_path, detector_graphs.yolox())
    whole = convert([model], tmp_path / "fp32")
    half = convert([model], tmp_path / "fp16", ConvertOptions(fp16=True))
    assert half.manifest.precision == "fp16"
    ratio = (half.path / "model.bin").stat().st_size / (whole.path / "model.bin").stat().st_size
    assert ratio == pytest.approx(0.5, abs=0.05)


def test_convert_names_the_precision_that_a_source_has_already(tmp_path: Path) -> None:
    frame = detector_graphs.picture()
    bytes_ = np.random.default_rng(0).integers(-9, 9, (10, 3, 1, 1), np.int8)
    kernel = ops.multiply(ops.convert(ops.constant(bytes_), ov.Type.f32), np.float32(0.1))
    quantized = ops.fake_quantize(frame, *(np.float32(x) for x in (0, 1, 0, 1)), 256)
    for source, precision in ((quantized, "int8"), (frame, "fp32")):
        node = ops.convolution(source, kernel, [8, 8], [0, 0], [0, 0], [1, 1])
        scores = ops.softmax(ops.reduce_mean(node, np.array([2, 3]), keep_dims=False), 1)
        model = write(tmp_path, ov.Model([scores], [frame], f"was_{precision}"))
        options = ConvertOptions(labels=",".join("abcdefghij"), color="rgb", mean=(0.0,), scale=(255.0,))
        assert convert([model], tmp_path / precision, options).manifest.precision == precision


def test_convert_states_nothing_that_flags_contradict(tmp_path: Path) -> None:
    options = ConvertOptions(color="rgb", pad=0, anchor="center", name="mine", version="3", iou=0.5)
    manifest = convert([write(tmp_path, detector_graphs.yolox())], tmp_path / "bundle", options).manifest
    assert (manifest.name, manifest.version) == ("mine", "3")
    assert (manifest.input.pad, manifest.input.anchor, manifest.thresholds.iou) == (0, "center", 0.5)
    assert "color rgb, anchor center, pad 0, iou 0.5: as asked for" in manifest.provenance.notes


def test_convert_takes_an_export_of_ultralytics_as_it_is(tmp_path: Path) -> None:
    model = detector_graphs.yolo_v8(2)
    info = {
        "model_type": "YOLO",
        "reverse_input_channels": True,
        "pad_value": 114,
        "scale_values": [255.0],
        "iou_threshold": 0.7,
        "labels": ["hex_nut", "bolt"],
        "resize_type": "fit_to_window_letterbox",
    }
    for key, value in info.items():
        model.set_rt_info(value, ["model_info", key])
    manifest = convert([write(tmp_path, model)], tmp_path / "bundle").manifest
    assert manifest.labels.names == ("hex nut", "bolt")
    assert (manifest.input.resize, manifest.input.anchor) == ("letterbox", "center")
    assert manifest.thresholds.iou == 0.7


def test_convert_asks_by_flag_for_what_it_cannot_infer(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        convert([write(tmp_path, detector_graphs.classifier())], tmp_path / "bundle")
    text = str(caught.value)
    assert all(flag in text for flag in ("--color", "--mean", "--scale", "--labels"))
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("classes", [20, 80, 90])
def test_convert_takes_no_classifier_for_one_of_objects(tmp_path: Path, classes: int) -> None:
    options = ConvertOptions(color="rgb", mean=(0.0,), scale=(1.0,))
    with pytest.raises(UsageError, match="does not say its labels"):
        convert([write(tmp_path, detector_graphs.classifier(classes))], tmp_path / "bundle", options)


def test_convert_asks_for_the_channels_of_an_ir_that_someone_folded_preprocessing_into(
    tmp_path: Path,
) -> None:
    steps = PrePostProcessor(detector_graphs.yolo_v5(2))
    tensor = steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    tensor.set_color_format(ColorFormat.BGR)
    steps.input().preprocess().convert_color(ColorFormat.RGB).convert_element_type(ov.Type.f32).scale(255.0)
    steps.input().model().set_layout(ov.Layout("NCHW"))
    path = write(tmp_path, steps.build())
    with pytest.raises(UsageError, match="does not say its color, and"):
        convert([path], tmp_path / "bundle", ConvertOptions(labels="a,b"))
    manifest = convert([path], tmp_path / "bundle", ConvertOptions(labels="a,b", color="bgr")).manifest
    assert manifest.input.resize == "letterbox"


def test_convert_refuses_labels_of_another_number(tmp_path: Path) -> None:
    options = ConvertOptions(labels="a,b")
    with pytest.raises(UsageError, match=r"2 labels .*80 classes"):
        convert([write(tmp_path, detector_graphs.yolox())], tmp_path / "bundle", options)


def test_convert_refuses_a_head_that_the_file_itself_contradicts(data: Path, tmp_path: Path) -> None:
    options = ConvertOptions(head="yolox")
    with pytest.raises(UsageError, match="the file itself says yolo_anchor"):
        convert([data / "darknet" / "yolo-fastest-1.1-xl.cfg"], tmp_path / "bundle", options)


def test_convert_shortens_a_name_that_no_bundle_may_have(tmp_path: Path) -> None:
    path = tmp_path / f"{'n' * 200}.xml"
    ov.save_model(detector_graphs.yolox(), path)
    assert convert([path], tmp_path / "bundle").manifest.name == "n" * 128


def test_convert_leaves_a_bundle_alone_unless_told_to_overwrite(tmp_path: Path) -> None:
    model = write(tmp_path, detector_graphs.yolox())
    first = convert([model], tmp_path / "bundle")
    with pytest.raises(BundleError, match="a bundle is there already"):
        convert([model], tmp_path / "bundle")
    second = convert([model], tmp_path / "bundle", ConvertOptions(overwrite=True, version="2"))
    assert first.digest != second.digest


def test_convert_leaves_nothing_behind_when_a_golden_picture_is_none(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    options = ConvertOptions(golden=[tmp_path / "notes.txt"])
    with pytest.raises(DataError, match=r"notes\.txt"):
        convert([write(tmp_path, detector_graphs.yolox())], tmp_path / "out" / "bundle", options)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command_writes_where_its_name_says_and_reports_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, detector_graphs.yolo_v8())
    monkeypatch.chdir(tmp_path)
    assert run("convert", "yolo_v8.xml", "--json", "result.json") == 0
    bundle = bundles.read(tmp_path / "yolo_v8-fp32")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["bundle"] == "yolo_v8-fp32"
    assert result["digest"] == bundle.digest
    assert result["head"]["kind"] == "yolo_v8_raw"
    assert "written: yolo_v8-fp32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["gone.onnx"], 3, "no such file"),
        (["unknown.xml"], 3, "the head is not known"),
        (["yolox.xml", "--labels", "cocoa"], 2, "no such set"),
        (["yolox.xml", "--mean", "1,2"], 2, "one number, or three"),
        (["yolox.xml", "--shape", "big"], 2, "HEIGHT,WIDTH"),
        (["yolox.xml", "--anchors", "1,2,3"], 2, "WIDTH,HEIGHT"),
        (["yolox.xml", "--name", "a/b"], 2, "--name a/b: not a name"),
        (["yolox.xml", "--version", "a b"], 2, "--version a b: not a name"),
        (["yolox.xml", "--scale", "0"], 2, "above 0"),
        (["yolox.xml", "--mean", "nan"], 2, "not finite"),
        (["yolox.xml", "--mean", "0.485", "--scale", "0.229"], 2, "--scale 0.229 makes more than 255 of a"),
        (["yolox.xml", "--shape", "-1,-1"], 2, "above 0"),
        (["open.xml", "--shape", "10000000,10000000"], 3, "open.xml: OpenVINO cannot take it: "),
        (["yolox.xml", "--shape", "2,3,64,64"], 2, "one picture of three channels, 1,3,H,W"),
        (["yolox.xml", "--anchors", "1,2"], 2, "--anchors says nothing about the head yolox"),
        (["yolox.xml", "--resize", "stretch", "--pad", "3"], 2, "--pad is for --resize letterbox"),
        (["yolox.xml", "--resize", "crop", "--short-side", "9"], 2, "short_side 9 is smaller"),
        (["yolox.xml", "--head", "yolo_anchor"], 3, "the head is not yolo_anchor"),
        (["yolox.xml", "--pixels"], 2, "--normalized or --pixels says nothing about"),
        (["anchor_grids.xml", "--labels", "a,b", "--decode", "v5", "--anchors", "1,2"], 2, "masks ((), ())"),
        (["yolox.xml", "-o", "taken"], 3, "something is there already"),
        (["yolox.xml", "yolo.weights"], 2, "does not belong"),
        ([], 2, "missing argument"),
    ],
)
def test_the_command_says_what_is_wrong_and_exits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, detector_graphs.yolox())
    write(tmp_path, detector_graphs.unknown())
    write(tmp_path, detector_graphs.anchor_grids())
    write(tmp_path, open_in_size())
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    assert run("convert", *arguments) == code
    assert words in capsys.readouterr().err


def test_the_command_takes_masks_and_anchors(tmp_path: Path) -> None:
    model = write(tmp_path, detector_graphs.anchor_grids())
    flags = ["--anchors", "1,2,3,4,5,6,7,8,9,10,11,12", "--masks", "0,1,2/3,4,5", "--scale-xy", "1.05,1.05",
             "--decode", "darknet"]  # fmt: skip
    assert run("convert", model, "-o", tmp_path / "bundle", "--labels", "a,b", *flags) == 0
    head = instance_of(YoloAnchor, bundles.read(tmp_path / "bundle").manifest.head)
    assert (head.masks, head.scale_xy, head.anchors[5]) == (((0, 1, 2), (3, 4, 5)), (1.05, 1.05), (11, 12))


def test_ctrl_c_leaves_no_half_written_bundle(tmp_path: Path, pictures: Path) -> None:
    model = write(tmp_path, detector_graphs.yolox())
    for i in range(300):
        os.link(pictures / "0.png", pictures / f"more{i}.png")
    script = (
        "import sys, time, openvino as ov\n"
        "from qzd_tools import convert, cli\n"
        "save = ov.save_model\n"
        "def slow(*args, **kwargs):\n"
        "    save(*args, **kwargs); print('saving', flush=True); time.sleep(60)\n"
        "ov.save_model = slow\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    out = tmp_path / "out" / "bundle"
    command = [sys.executable, "-c", script, "convert", str(model), "-o", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line.strip() == "saving" for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 4
    assert "interrupted" in errors
    assert list(out.parent.iterdir()) == []


@pytest.mark.models
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_classifiers_of_real_size_convert_to_their_known_sizes(
    tmp_path: Path, pictures: Path, name: str
) -> None:
    make, size = ARCHITECTURES[name]
    model = write(tmp_path, make())
    options = ConvertOptions(color="rgb", mean=(127.5,), scale=(127.5,))
    bundle = convert([model], tmp_path / "bundle", options)
    assert bundle.size == pytest.approx(size, rel=0.05)
    assert bundle.manifest.labels.names[0] == "tench"
    half = convert([model], tmp_path / "half", dataclasses.replace(options, fp16=True))
    assert half.size == pytest.approx(size / 2, rel=0.06)
    made = [bundle, half]
    parts: dict[Mode, float] = {"fp16": 0.5, "int8-weights": 0.25, "int8": 0.25}
    for mode, part in parts.items():
        images = sorted(pictures.iterdir())
        made.append(quantize(bundle, tmp_path / mode, mode=mode, images=images).bundle)
        assert made[-1].size / bundle.size == pytest.approx(part, abs=0.04)
    for one in made:
        with Detector(one) as detector:
            assert len(detector.detect(np.zeros((300, 400, 3), np.uint8)).found) == 5


def test_convert_leaves_nothing_when_there_is_no_space(tmp_path: Path) -> None:
    """Files may not grow beyond a limit: as on a full disk, a write stops in the middle."""
    model = write(tmp_path, detector_graphs.yolox())
    code = (
        "import resource, sys; from qzd_tools.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        f"sys.exit(main(['convert', {str(model)!r}, '-o', {str(tmp_path / 'new')!r}]))"
    )
    done = run_python(code)
    assert done.returncode == 3, done.stderr
    assert f"{tmp_path / 'new'}: cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.glob("*new*")) == []
