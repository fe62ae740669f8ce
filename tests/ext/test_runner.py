"""Infer requests on a real device, and requests that fail."""

from __future__ import annotations

import dataclasses
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as op

from qzd_ext import bundle as bundles
from qzd_ext.cpus import usable_cpus
from qzd_ext.errors import DeviceError, ModelError
from qzd_ext.manifest import InferencePrecision
from qzd_ext.runner import Runner, RunOptions, Slot, _read, available_devices, available_precisions

GOOD = 16  # the sum of an input that the model below can use
BAD, WORSE, WORST = 112, 128, 144  # others; the CPU plugin checks a shape only when it has changed


@pytest.fixture(scope="module")
def fragile_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model that fails at run time unless its input sums up to GOOD: a reshape that does not fit."""
    frame = op.parameter([1, 4, 4, 3], np.uint8)
    total = op.reduce_sum(op.convert(frame, "i64"), np.array([0, 1, 2, 3]), keep_dims=False)
    shape = op.concat([op.unsqueeze(total, np.array(0)), op.constant(np.array([3], np.int64))], 0)
    reshaped = op.reshape(op.convert(frame, "f32"), shape, special_zero=False)
    result = op.reduce_sum(reshaped, np.array([0, 1]), keep_dims=False)
    path = tmp_path_factory.mktemp("fragile") / "model.xml"
    ov.save_model(ov.Model([op.result(result)], [frame]), path)
    return path


def _fill(slot: Slot, total: int) -> None:
    slot.input[:] = 0
    slot.input.reshape(-1)[:16] = total // 16


def test_start_reports_results_and_faults_alike(fragile_model: Path) -> None:
    runner = Runner(fragile_model, RunOptions(requests=2))
    ended: queue.Queue[tuple[Exception | None, float | None]] = queue.Queue()

    def done(slot: Slot, error: Exception | None) -> None:
        ended.put((error, None if error else float(slot.outputs[0])))
        runner.release(slot)

    for total in (GOOD, BAD, GOOD, WORSE, WORST, GOOD, GOOD):
        slot = runner.acquire(timeout=10)
        assert slot is not None
        _fill(slot, total)
        runner.start(slot, done)
        error, value = ended.get(timeout=10)
        if total == GOOD:
            assert (error, value) == (None, GOOD)
        else:
            assert isinstance(error, DeviceError)
            assert "reshape" in str(error)
    runner.close()


@pytest.mark.skipif(usable_cpus() < 2, reason="on one CPU, OpenVINO 2026.4 does not check the shape")
def test_infer_raises_when_the_device_fails(fragile_model: Path) -> None:
    runner = Runner(fragile_model)
    slot = runner.acquire()
    assert slot is not None
    _fill(slot, BAD)
    with pytest.raises(DeviceError, match="failed while running"):
        slot.infer()
    runner.close()


def test_acquire_gives_none_when_every_request_is_taken(fragile_model: Path) -> None:
    runner = Runner(fragile_model, RunOptions(requests=1))
    slot = runner.acquire()
    assert slot is not None
    assert runner.acquire(timeout=0.01) is None
    runner.release(slot)
    assert runner.acquire(timeout=0) is slot
    runner.close()


def test_close_leaves_no_thread(fragile_model: Path) -> None:
    before = set(threading.enumerate())
    Runner(fragile_model).close()
    assert {t for t in threading.enumerate() if t.name.startswith("qzd")} <= before


def test_devices_are_those_that_execute(fragile_model: Path) -> None:
    runner = Runner(fragile_model, RunOptions(device="AUTO:CPU"))
    assert runner.devices == ("CPU",)
    runner.close()


@pytest.mark.parametrize("device", ["AUTO:GPU.7,CPU", "MULTI:CPU,GPU.7(2)", "AUTO:-GPU.7,CPU"])
def test_a_device_that_chooses_makes_do_with_those_that_are_here(
    fragile_model: Path, device: str, caplog: pytest.LogCaptureFixture
) -> None:
    runner = Runner(fragile_model, RunOptions(device=device))
    assert runner.devices == ("CPU",)
    runner.close()
    assert ("GPU.7 is not available" in caplog.text) == ("-GPU.7" not in device)


@pytest.mark.parametrize("device", ["GPU.7", "NPU", "VPU", "AUTO:GPU.7", "HETERO:CPU,GPU.7", "TOASTER"])
def test_a_device_that_is_not_here_is_named(fragile_model: Path, device: str) -> None:
    missing = device.replace("VPU", "NPU").removeprefix("AUTO:").removeprefix("HETERO:CPU,")
    if any(d.startswith(missing) for d in available_devices()):
        pytest.skip(f"{device} is here")
    with pytest.raises(DeviceError, match=rf"{missing} is not available(.|\n)*CPU"):
        Runner(fragile_model, RunOptions(device=device))


def test_a_cache_that_cannot_be_written_does_not_stop_a_load(
    fragile_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a directory")
    runner = Runner(fragile_model, RunOptions(cache_dir=tmp_path / "file" / "cache"))
    assert runner.requests >= 1
    assert "compiled without it" in caplog.text
    runner.close()


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot read it"), ("<net", "cannot read it")], ids=["missing", "damaged"]
)
def test_a_model_that_cannot_be_read_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "model.xml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ModelError, match=message):
        Runner(path)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [([1, 4, 4, 3], np.float32, "f32"), ([1, 3, 4, 4], np.uint8, "u8"), ([1, 48], np.uint8, "u8")],
    ids=["float", "nchw", "flat"],
)
def test_a_model_with_another_input_is_refused(
    tmp_path: Path, shape: list[int], dtype: type, message: str
) -> None:
    frame = op.parameter(shape, dtype)
    ov.save_model(ov.Model([op.result(op.convert(frame, "f32"))], [frame]), tmp_path / "model.xml")
    with pytest.raises(ModelError, match=rf"inputs are {message}(.|\n)*one input, u8 \[1,H,W,3\]"):
        Runner(tmp_path / "model.xml")


ENDING = """
import sys
from pathlib import Path
from qzd_ext.runner import Runner, RunOptions
runner = Runner(Path(sys.argv[1]), RunOptions(requests=4, cache_dir=Path(sys.argv[2])))
for _ in range(40):
    slot = runner.acquire()
    runner.start(slot, lambda slot, error: runner.release(slot))
runner.close()
"""


def test_a_process_that_ends_after_close_ends_well(tiny_bundle: Path, tmp_path: Path) -> None:
    for _ in range(3):
        words = [sys.executable, "-c", ENDING, str(tiny_bundle / "model.xml"), str(tmp_path)]
        paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
        ended = subprocess.run(words, capture_output=True, text=True, env=paths)
        assert (ended.returncode, ended.stderr) == (0, "")


def test_weights_in_eight_bits_are_restored_before_the_device_sees_them(tmp_path: Path) -> None:
    frame = op.parameter([1, 4, 4, 3], np.uint8)
    planes = op.transpose(op.convert(frame, "f32"), np.array([0, 3, 1, 2]))
    stored = op.convert(op.constant(np.ones((2, 3, 1, 1), np.int8)), "f32")
    kernel = op.multiply(stored, op.constant(np.full((2, 1, 1, 1), 0.5, np.float32)))
    found = op.convolution(planes, kernel, [1, 1], [0, 0], [0, 0], [1, 1])
    ov.save_model(ov.Model([op.result(found)], [frame]), tmp_path / "model.xml", compress_to_fp16=False)
    types = {node.get_element_type().get_type_name() for node in _read(tmp_path / "model.xml").get_ops()}
    assert "i8" not in types
    runner = Runner(tmp_path / "model.xml")
    slot = runner.acquire()
    assert slot is not None
    slot.input[:] = 2
    slot.infer()
    assert (slot.outputs[0] == 3).all()
    runner.close()


def _model_of(shape: list[int] | None, results: bool, kind: str = "f32") -> ov.Model:
    frames = [op.parameter(shape, np.uint8)] if shape else []
    found = op.convert(frames[0], kind) if frames else op.constant(np.zeros(3, np.float32))
    return ov.Model([found] if results else [], frames)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_model_of(None, results=True), "inputs are none"),
        (_model_of([2, 8, 8, 3], results=True), r"inputs are u8 \[2,8,8,3\]"),
        (_model_of([1, -1, 8, 3], results=True), r"inputs are u8 \[1,\?,8,3\]"),
        (_model_of([8, 8, 3], results=True), r"inputs are u8 \[8,8,3\]"),
        (_model_of([1, 8, 8, 3], results=True, kind="f16"), r"results are f16 \[1,8,8,3\]"),
    ],
    ids=["no input", "batch", "dynamic", "three dimensions", "float16"],
)
def test_a_model_of_another_form_is_refused(tmp_path: Path, model: ov.Model, message: str) -> None:
    ov.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
    with pytest.raises(ModelError, match=message):
        Runner(tmp_path / "model.xml")


def test_a_model_computes_in_f32_when_nothing_else_is_asked_for(fragile_model: Path) -> None:
    runner = Runner(fragile_model)
    assert runner.precision == "f32"
    runner.close()


@pytest.mark.parametrize("device", ["CPU", "AUTO:CPU", "MULTI:CPU", "HETERO:CPU"])
@pytest.mark.parametrize("precision", available_precisions("CPU"))
def test_a_model_computes_in_the_precision_that_is_asked_for(
    fragile_model: Path, device: str, precision: InferencePrecision
) -> None:
    runner = Runner(fragile_model, RunOptions(device=device, precision=precision))
    assert runner.precision == precision
    runner.close()


@pytest.mark.parametrize("precision", [p for p in ("f16", "bf16") if p not in available_precisions("CPU")])
def test_a_precision_that_the_device_lacks_is_refused(
    fragile_model: Path, precision: InferencePrecision
) -> None:
    with pytest.raises(DeviceError, match=f"does not compute in {precision}(.|\n)*f32"):
        Runner(fragile_model, RunOptions(precision=precision))


@pytest.mark.parametrize("validated", ["f32", "bf16", "f16"])
def test_a_bundle_computes_in_what_it_was_validated_in_or_f32(
    tiny_bundle: Path, validated: InferencePrecision, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = bundles.read(tiny_bundle)
    manifest = msgspec.structs.replace(tiny.manifest, inference_precision=validated)
    runner = Runner(dataclasses.replace(tiny, manifest=manifest))
    able = validated in available_precisions("CPU")
    assert runner.precision == (validated if able else "f32")
    assert ("f32 is used" in caplog.text) == (not able)
    runner.close()
