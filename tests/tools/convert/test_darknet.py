"""Darknet's cfg and weights files: layers against plain NumPy, and what is refused by line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

from qzd_ext import bundle as bundles
from qzd_ext.detector import Detector
from qzd_ext.errors import ModelError
from qzd_ext.manifest import YoloAnchor
from qzd_tools.cli import main
from qzd_tools.convert.formats.darknet import Weights, parse, read_network
from qzd_tools.convert.formats.darknet_graph import build
from support.results import instance_of

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
NET = "[net]\nwidth=8\nheight=8\nchannels=3\n"
GRID = "[convolutional]\nfilters=18\nactivation=linear\n"
HEAD = GRID + "[yolo]\nmask=0,1,2\nanchors=1,2,3,4,5,6\nclasses=1\nnum=3\n"
TWO_SIZES = "[dropout]\n[upsample]\nstride=2\n"
rng = np.random.default_rng(5)


def header(seen: int = 7, minor: int = 2) -> bytes:
    wide = "<i8" if minor >= 2 else "<i4"
    return np.array([0, minor, 5], "<i4").tobytes() + np.array([seen], wide).tobytes()


def network(
    folder: Path, text: str, floats: np.ndarray | None = None, tail: bytes = b""
) -> tuple[Path, Path]:
    cfg, weights = folder / "net.cfg", folder / "net.weights"
    cfg.write_text(text)
    numbers = np.zeros(0, np.float32) if floats is None else floats
    weights.write_bytes(header() + numbers.astype("<f4").tobytes() + tail)
    return cfg, weights


def run(folder: Path, layers: str, floats: np.ndarray, frame: np.ndarray, channels: int) -> np.ndarray:
    """Run layers on a frame, read through a 1x1 convolution of ones into each of 18 channels."""
    ones = np.concatenate([np.zeros(18), np.ones(18 * channels)])
    model, _ = build(read_network(*network(folder, NET + layers + HEAD, np.concatenate([floats, ones]))))
    return np.asarray(ov.Core().compile_model(model, "CPU", EXACT)(frame)[0][0, 0])


def convolve(frame: np.ndarray, kernel: np.ndarray, stride: int, pad: int) -> np.ndarray:
    """Plain loops: (C, H, W) by (F, C, k, k)."""
    padded = np.pad(frame, ((0, 0), (pad, pad), (pad, pad)))
    size = kernel.shape[2]
    side = (padded.shape[1] - size) // stride + 1
    out = np.zeros((len(kernel), side, side))
    for y in range(side):
        for x in range(side):
            patch = padded[:, y * stride : y * stride + size, x * stride : x * stride + size]
            out[:, y, x] = (kernel * patch).sum((1, 2, 3))
    return out


@pytest.fixture
def frame() -> np.ndarray:
    return rng.random((1, 3, 8, 8), np.float32)


def test_a_convolution_with_batch_norm_reads_bias_scale_mean_variance_kernel(
    tmp_path: Path, frame: np.ndarray
) -> None:
    bias, scale, mean = rng.normal(size=(3, 4))
    variance, kernel = rng.random(4) + 0.5, rng.normal(size=(4, 3, 3, 3))
    text = "[convolutional]\nbatch_normalize=1\nfilters=4\nsize=3\nstride=2\npad=1\nactivation=leaky\n"
    floats = np.concatenate([bias, scale, mean, variance, kernel.ravel()])
    plain = convolve(frame[0], kernel, 2, 1)
    normal = (plain - mean.reshape(-1, 1, 1)) / np.sqrt(variance + 1e-5).reshape(-1, 1, 1)
    value = normal * scale.reshape(-1, 1, 1) + bias.reshape(-1, 1, 1)
    expected = np.where(value > 0, value, 0.1 * value).sum(0)
    np.testing.assert_allclose(run(tmp_path, text, floats, frame, 4), expected, atol=1e-4)


def test_a_convolution_without_batch_norm_in_groups(tmp_path: Path, frame: np.ndarray) -> None:
    bias, kernel = rng.normal(size=6), rng.normal(size=(6, 1, 3, 3))
    text = "[convolutional]\nfilters=6\nsize=3\npad=1\ngroups=3\nactivation=linear\n"
    parts = [convolve(frame[0, i : i + 1], kernel[2 * i : 2 * i + 2], 1, 1) for i in range(3)]
    expected = (np.concatenate(parts) + bias.reshape(-1, 1, 1)).sum(0)
    floats = np.concatenate([bias, kernel.ravel()])
    np.testing.assert_allclose(run(tmp_path, text, floats, frame, 6), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("linear", lambda v: v),
        ("leaky", lambda v: np.where(v > 0, v, 0.1 * v)),
        ("relu", lambda v: np.maximum(v, 0)),
        ("logistic", lambda v: 1 / (1 + np.exp(-v))),
        ("swish", lambda v: v / (1 + np.exp(-v))),
        ("mish", lambda v: v * np.tanh(np.log1p(np.exp(v)))),
    ],
)
def test_activations(tmp_path: Path, frame: np.ndarray, name: str, function: Callable[..., Any]) -> None:
    kernel = 4 * rng.normal(size=(1, 3, 1, 1))
    text = f"[convolutional]\nfilters=1\nactivation={name}\n"
    expected = function(convolve(frame[0], kernel, 1, 0)[0])
    got = run(tmp_path, text, np.concatenate([np.zeros(1), kernel.ravel()]), frame, 1)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (2, 1), (3, 1), (3, 2), (5, 1), (13, 1), (3, 3)])
def test_max_pooling_pads_as_darknet_does(tmp_path: Path, frame: np.ndarray, size: int, stride: int) -> None:
    padding = size - 1
    side = (8 + padding - size) // stride + 1
    padded = np.full((3, 8 + padding, 8 + padding), -np.inf)
    padded[:, padding // 2 : padding // 2 + 8, padding // 2 : padding // 2 + 8] = frame[0]
    expected = np.zeros((side, side))
    for y in range(side):
        for x in range(side):
            window = padded[:, y * stride : y * stride + size, x * stride : x * stride + size]
            expected[y, x] = window.max((1, 2)).sum()
    got = run(tmp_path, f"[maxpool]\nsize={size}\nstride={stride}\n", np.zeros(0), frame, 3)
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "expected", "channels"),
    [
        ("[upsample]\nstride=2\n", lambda f: f.repeat(2, 1).repeat(2, 2), 3),
        ("[upsample]\nstride=2\nscale=3\n", lambda f: 3 * f.repeat(2, 1).repeat(2, 2), 3),
        ("[dropout]\nprobability=.5\n", lambda f: f, 3),
        ("[dropout]\n[dropout]\n[shortcut]\nfrom=-2\nactivation=relu\n", lambda f: np.maximum(2 * f, 0), 3),
        ("[dropout]\n[upsample]\nstride=2\n[route]\nlayers=0\n", lambda f: f, 3),
        ("[dropout]\n[upsample]\nstride=1\n[route]\nlayers=-1,0\n", lambda f: np.concatenate([f, f]), 6),
        ("[dropout]\n[route]\nlayers=-1\ngroups=3\ngroup_id=2\n", lambda f: f[2:], 1),
    ],
    ids=["upsample", "scaled", "dropout", "shortcut", "one layer", "two layers", "a group"],
)
def test_layers_without_weights(
    tmp_path: Path, frame: np.ndarray, layers: str, expected: Callable[..., Any], channels: int
) -> None:
    got = run(tmp_path, layers, np.zeros(0), frame, channels)
    np.testing.assert_allclose(got, expected(frame[0]).sum(0), atol=1e-5)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (NET + "[crnn]\n", 5, "this section is not known"),
        (NET + "[convolutional]\nfilters=4\nxnor=1\n", 7, "xnor=1 is not understood"),
        (NET + "[convolutional]\nfilters=4\nsparkle=1\n", 7, "sparkle=1 is not understood"),
        (NET + "[shortcut]\nfrom=-1\nweights_type=per_feature\n", 7, "weights_type"),
        (NET + "[yolo]\nnew_coords=1\n", 6, "new_coords=1"),
        (NET + "[convolutional]\nfilters=4\nsize=3\nfilters=8\n", 6, "filters=4, and 8 in line 8"),
        (NET + "[net]\n", 5, "out of place"),
        ("[maxpool]\n", 1, "out of place"),
        (NET + "just words\n", 5, "option=value"),
        ("width=8\n", 1, "option=value"),
    ],
    ids=[
        "section", "binary", "unknown", "weighted shortcut", "new coords", "twice", "second net", "no net",
        "words", "early",
    ],
)
def test_parse_names_the_line_of_what_it_does_not_understand(text: str, line: int, words: str) -> None:
    with pytest.raises(ModelError, match=rf"net\.cfg:{line}: .*{words}|net\.cfg:{line}: .*\n.*{words}"):
        parse(text, Path("net.cfg"))


@pytest.mark.parametrize(
    ("layers", "line", "words"),
    [
        ("[convolutional]\nfilters=4\nactivation=selu\n" + HEAD, 7, "activation=selu"),
        ("[convolutional]\nfilters=4\ngroups=2\n" + HEAD, 7, "3 channels into 4 filters in 2 groups"),
        ("[route]\nlayers=-3\n" + HEAD, 6, "no layer -3"),
        ("[route]\n" + HEAD, 5, "layers is not given"),
        (TWO_SIZES + "[shortcut]\nfrom=0\n" + HEAD, 9, r"\[1, 3, 8, 8\] to \[1, 3, 16, 16\]"),
        (TWO_SIZES + "[route]\nlayers=-1,0\n" + HEAD, 9, "the same height and width"),
        ("[dropout]\n[route]\nlayers=0\ngroups=2\n" + HEAD, 8, "groups that divide"),
        ("[upsample]\nstride=-2\n" + HEAD, 6, "a whole number from 1"),
        ("[convolutional]\nfilters=a\n" + HEAD, 6, "not a number"),
        ("[convolutional]\nfilters=-4\n" + HEAD, 6, "a whole number from 1"),
        ("[convolutional]\nfilters=4.5\n" + HEAD, 6, "a whole number from 1"),
        ("[convolutional]\nfilters=1e30\n" + HEAD, 6, "a whole number from 1"),
        ("[convolutional]\nfilters=nan\n" + HEAD, 6, "finite numbers"),
        ("[convolutional]\nsize=0\n" + HEAD, 6, "a whole number from 1"),
        ("[convolutional]\nstride=-1\n" + HEAD, 6, "a whole number from 1"),
        ("[convolutional]\npadding=-4\n" + HEAD, 6, "a whole number from 0"),
        ("[maxpool]\nstride=-1\n" + HEAD, 6, "a whole number from 1"),
        (HEAD.replace("0,1,2", "-1,0,1"), 10, r"mask \[-1, 0, 1\]"),
        (HEAD.replace("=1,2,3", "=1,0,3"), 10, "sides above 0"),
        (HEAD + "scale_x_y=-1\n", 13, "scale_x_y=-1"),
        (HEAD + "nms_kind=foonms\n", 13, "nms_kind=foonms is not known"),
        (HEAD.replace("filters=18", "filters=17"), 8, "set filters=18"),
        (GRID + "[yolo]\nmask=0,1,2\nanchors=1,2\nclasses=1\n", 10, "anchors"),
        ("[convolutional]\nfilters=65536\nsize=65535\n" + HEAD, 5, "OpenVINO cannot build it"),
        ("[convolutional]\nfilters=4\nsize=99\n" + HEAD, 5, "OpenVINO cannot build it"),
        ("[dropout]\n", 1, r"no \[yolo\] section"),
    ],
)
def test_build_names_the_line_of_what_it_cannot_build(
    tmp_path: Path, layers: str, line: int, words: str
) -> None:
    with pytest.raises(ModelError) as caught:
        build(read_network(*network(tmp_path, NET + layers)))
    assert f"net.cfg:{line}: " in str(caught.value)
    assert re.search(words, str(caught.value))


@pytest.mark.parametrize(
    ("count", "tail", "words"),
    [
        (71, b"", "it has 304 bytes, and the cfg consumes 308: 4 bytes are missing"),
        (72, b"abc", "it has 311 bytes, and the cfg consumes 308: 3 bytes are left over"),
        (74, b"", "it has 316 bytes, and the cfg consumes 308: 8 bytes are left over"),
    ],
    ids=["missing", "odd bytes", "left over"],
)
def test_build_gives_both_counts_when_the_weights_do_not_fit(
    tmp_path: Path, count: int, tail: bytes, words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        build(read_network(*network(tmp_path, NET + HEAD, np.zeros(count), tail)))


@pytest.mark.parametrize(("minor", "length"), [(1, 16), (2, 20)])
def test_weights_know_both_headers(tmp_path: Path, minor: int, length: int) -> None:
    path = tmp_path / "old.weights"
    path.write_bytes(header(minor=minor) + np.array([1, 2], "<f4").tobytes())
    weights = Weights(path)
    assert length == weights.consumed
    assert weights.take(2).tolist() == [1, 2]
    weights.check()


def test_weights_refuse_a_file_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "short.weights").write_bytes(b"123")
    with pytest.raises(ModelError, match="3 bytes"):
        Weights(tmp_path / "short.weights")


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_refuse_numbers_that_are_not_finite(tmp_path: Path, number: float) -> None:
    """A network of such weights finds nothing, whatever it is shown."""
    path = tmp_path / "hurt.weights"
    path.write_bytes(header() + np.array([1, number, 2], "<f4").tobytes())
    with pytest.raises(ModelError, match="the number at byte 24 is not finite"):
        Weights(path)


def test_weights_give_both_counts_when_the_header_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "cut.weights").write_bytes(header()[:17])
    with pytest.raises(ModelError, match="it has 17 bytes, and the cfg consumes 20: 3 bytes are missing"):
        Weights(tmp_path / "cut.weights").check()


PUBLISHED = {
    "yolov4": 257_717_640,
    "yolov4-tiny": 24_251_276,
    "yolov3": 248_007_048,
    "yolov3-tiny": 35_434_956,
}
"""Bytes of the weights that their makers publish."""


@pytest.mark.parametrize(
    ("name", "cells", "masks", "scales"),
    [
        ("yolov4", [76, 38, 19], ((0, 1, 2), (3, 4, 5), (6, 7, 8)), (1.2, 1.1, 1.05)),
        ("yolov4-tiny", [13, 26], ((3, 4, 5), (1, 2, 3)), (1.05, 1.05)),
        ("yolov3", [13, 26, 52], ((6, 7, 8), (3, 4, 5), (0, 1, 2)), ()),
        ("yolov3-tiny", [13, 26], ((3, 4, 5), (0, 1, 2)), ()),
    ],
)
def test_published_networks_consume_every_byte_of_their_published_weights(
    data: Path,
    tmp_path: Path,
    name: str,
    cells: list[int],
    masks: tuple[tuple[int, ...], ...],
    scales: tuple[float, ...],
) -> None:
    weights = tmp_path / "made-up.weights"
    weights.write_bytes(header())
    os.truncate(weights, PUBLISHED[name])  # zeros, and no disk
    model, found = build(read_network(data / "darknet" / f"{name}.cfg", weights))
    assert [(255, side, side) for side in cells] == [tuple(o.shape[1:]) for o in model.outputs]
    head = instance_of(YoloAnchor, found.head)
    assert (masks, scales, 80) == (head.masks, head.scale_xy, found.classes)


def test_different_anchors_are_numbered_one_after_the_other(tmp_path: Path) -> None:
    second = HEAD.replace("1,2,3,4,5,6", "7,8,9,10,11,12")
    floats = np.zeros(72 + 18 + 18 * 18)
    _, found = build(read_network(*network(tmp_path, NET + HEAD + second, floats)))
    head = instance_of(YoloAnchor, found.head)
    assert head.masks == ((0, 1, 2), (3, 4, 5))
    assert head.anchors[3] == (7, 8)


def test_variances_below_zero_are_taken_as_zero_and_said(tmp_path: Path) -> None:
    text = NET + "[convolutional]\nbatch_normalize=1\n" + HEAD
    floats = np.concatenate([[0, 1, 0, -4], np.ones(3), np.zeros(18), np.ones(18)])
    _, found = build(read_network(*network(tmp_path, text, floats)))
    assert "1 variances below 0" in found.reason


def test_the_family_follows_letter_box_and_nms_kind(tmp_path: Path) -> None:
    text = NET + "letter_box=1\n" + HEAD + "nms_kind=diounms\n"
    _, found = build(read_network(*network(tmp_path, text, np.zeros(72))))
    facts = found.family
    assert (facts.resize, facts.pad, facts.nms, facts.scale) == ("letterbox", 127, "diou", (255.0,))


@pytest.mark.models
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_convert_quantize_and_run(data: Path, tmp_path: Path, name: str) -> None:
    # positive, since some are variances, and so small that no layer gives more than it takes
    numbers = np.random.default_rng(1).random((PUBLISHED[name] - 20) // 4, np.float32) * 0.002
    cfg = data / "darknet" / f"{name}.cfg"
    weights = tmp_path / "made-up.weights"
    weights.write_bytes(header() + numbers.tobytes())
    images = tmp_path / "images"
    images.mkdir()
    for file in sorted((data / "coco" / "calibration" / "images").iterdir())[:3]:
        (images / file.name).symlink_to(file)
    floats, eight = tmp_path / "floats", tmp_path / "eight"
    assert main(["convert", str(cfg), str(weights), "-o", str(floats)]) == 0
    assert main(["quantize", str(floats), "--images", str(images), "-o", str(eight)]) == 0
    frame = np.random.default_rng(2).integers(0, 256, (480, 640, 3), np.uint8)
    for path in (floats, eight):
        bundle = bundles.read(path)
        with Detector(bundle) as detector:
            detector.detect(frame)  # an error if a score or a box is not finite
        assert bundle.manifest.input.width == (608 if name == "yolov4" else 416)


def test_a_cfg_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    cfg, weights = network(tmp_path, "\ufeff" + NET + HEAD, np.zeros(18 * 4))
    assert build(read_network(cfg, weights))[1].classes == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("nms_kind=diounms\n", "nms_kind=diounms; without its beta_nms=0.6, as if that were 1"),
        ("nms_kind=diounms\nbeta_nms=0.8\n", "nms_kind=diounms; without its beta_nms=0.8, as if that were 1"),
        ("nms_kind=diounms\nbeta_nms=1\n", "nms_kind=diounms"),
        ("beta_nms=0.6\n", None),
    ],
)
def test_an_exponent_of_diou_that_is_not_followed_is_said(
    tmp_path: Path, options: str, reason: str | None
) -> None:
    found = build(read_network(*network(tmp_path, NET + HEAD + options, np.zeros(18 * 4))))[1]
    assert found.family.why.get("nms") == reason
