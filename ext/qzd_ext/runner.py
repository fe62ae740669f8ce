"""A compiled model and its infer requests: the only module of qzd_ext that imports OpenVINO.

It knows neither frames nor boxes; a request's input and outputs are arrays.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import openvino as ov
from openvino.passes import ConstantFolding, Manager

from qzd_ext.bundle import Bundle, Ir, read_ir
from qzd_ext.cpus import usable_cpus
from qzd_ext.detections import FloatArray
from qzd_ext.errors import DeviceError, ModelError, QzdError
from qzd_ext.geometry import Frame
from qzd_ext.manifest import InferencePrecision
from qzd_ext.scheduling import giving_way

__all__ = ["RunOptions", "Runner", "Slot", "available_devices", "available_precisions"]

log = logging.getLogger(__name__)

SPARE_REQUESTS = 2
CHOOSING_DEVICES = ("AUTO", "MULTI")
VIRTUAL_DEVICES = (*CHOOSING_DEVICES, "HETERO", "BATCH")
ABILITIES: dict[InferencePrecision, str] = {"f32": "FP32", "f16": "FP16", "bf16": "BF16"}
"""What a device's OPTIMIZATION_CAPABILITIES call each precision."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Where and how a model runs.

    Attributes
    ----------
    device : str
        As OpenVINO names it: CPU, GPU, GPU.1, NPU, AUTO:GPU,CPU, HETERO:GPU,CPU. VPU means NPU.
    hint : "latency" or "throughput"
    requests : int or None
        Infer requests that may be under way at once; None for what the device finds best, and two more
        for throughput.
    threads : int or None
        CPU threads for inference; None for as many as the process may use.
    cache_dir : Path or None
        Where compiled models are kept between starts.
    streams : int or None
        Inferences that the device runs side by side; None for what the hint means.
    precision : "f32", "f16", "bf16" or None
        What the device computes in where the graph is not quantized. None means what the bundle was validated
        in, and f32 for a model that is not a bundle.
    """

    device: str = "CPU"
    hint: Literal["latency", "throughput"] = "throughput"
    requests: int | None = None
    threads: int | None = None
    cache_dir: Path | None = None
    streams: int | None = None
    precision: InferencePrecision | None = None


@functools.cache
def _core() -> ov.Core:
    return ov.Core()


def available_devices() -> list[str]:
    """Devices that OpenVINO finds here, such as CPU, GPU.0, NPU."""
    return list(_core().available_devices)


def available_precisions(device: str) -> list[InferencePrecision]:
    """List what a device computes in; for a virtual device, what every real one behind it does.

    Raises
    ------
    DeviceError
        The device does not exist.
    """
    return _precisions(_device_name(device))


Done = Callable[["Slot", QzdError | None], None]


class Slot:
    """One infer request with its own input and output tensors."""

    __slots__ = ("_device", "_request", "_results", "index")

    def __init__(self, index: int, request: ov.InferRequest, device: str) -> None:
        self.index = index
        self._device = device
        self._request = request
        self._results = len(request.model_outputs)

    @property
    def input(self) -> Frame:
        """The request's own input, (height, width, 3) uint8 BGR, writable, not a copy."""
        return self._request.get_input_tensor().data[0]  # type: ignore[no-any-return]

    @property
    def outputs(self) -> tuple[FloatArray, ...]:
        """The request's own results, float32, in the model's order; valid until it is started again."""
        return tuple(self._request.get_output_tensor(i).data for i in range(self._results))

    def start(self) -> None:
        """Start the request; its input is filled.

        Raises
        ------
        DeviceError
            The device refuses it.
        """
        try:
            self._request.start_async()
        except RuntimeError as error:
            raise _device_fault(self._device, error) from error

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the request has ended; False if it still runs after `timeout` seconds.

        OpenVINO's callbacks are not used: a request that failed never calls its Python callback, and a
        process that ends while OpenVINO's thread drops a callback is aborted.

        Raises
        ------
        DeviceError
            The device failed.
        """
        try:
            if timeout is not None:
                return bool(self._request.wait_for(int(timeout * 1e3)))
            self._request.wait()
        except RuntimeError as error:
            raise _device_fault(self._device, error) from error
        return True

    def infer(self) -> None:
        """Run the request and wait for it; its input is filled.

        Raises
        ------
        DeviceError
            The device failed.
        """
        try:
            self._request.infer()
        except RuntimeError as error:
            raise _device_fault(self._device, error) from error


class Runner:
    """A model compiled for a device, with a pool of infer requests.

    Parameters
    ----------
    model : Path or Bundle
        An IR with one input, u8 `[1, H, W, 3]`, and float32 results of static shape: model.xml with model.bin
        beside it, or a bundle, whose IR is read into memory and checked.
    options : RunOptions

    Raises
    ------
    BundleError
        The bundle's IR is not what its manifest says.
    ModelError
        The IR cannot be read, or its input or results are of another form.
    DeviceError
        The device is not available, or cannot compile the model.
    """

    def __init__(self, model: Path | Bundle, options: RunOptions = RunOptions()) -> None:
        self.options = options
        name = _name_of(model)
        graph = _read(model)
        height, width = _check_graph(graph, name)
        self.input_size = (width, height)
        self.output_shapes = [tuple(int(d) for d in result.shape) for result in graph.outputs]
        with giving_way():
            device = _device_name(options.device)
            self._precision = _choose_precision(model, device, options)
            self._compiled = _compile(graph, device, options, self._precision, name)
        self.requests = options.requests or _busy_requests(self._compiled, options)
        try:
            requests = [self._compiled.create_infer_request() for _ in range(self.requests)]
        except RuntimeError as error:
            raise DeviceError(
                f"{name}: device {options.device} gives no {self.requests} requests: {_last_line(error)}",
                wanted="a device with room for them",
                fix="set the model's `requests` lower, or choose another device",
            ) from error
        self._slots = [Slot(i, request, options.device) for i, request in enumerate(requests)]
        self._idle: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()  # None once it is retired
        for slot in self._slots:
            self._idle.put(slot)
        self._started: queue.SimpleQueue[tuple[Slot, Done, QzdError | None] | None] = queue.SimpleQueue()
        self._reporter: threading.Thread | None = None

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that really execute the model, as OpenVINO reports them now."""
        found = self._compiled.get_property("EXECUTION_DEVICES")
        return tuple(found) if isinstance(found, list | tuple) else (str(found),)

    @property
    def precision(self) -> str:
        """What the device computes in where the graph is not quantized: f32, f16 or bf16.

        The device's own report; a virtual device gives none, and what it was asked for stands in. Empty if
        neither is known.
        """
        try:
            reported = self._compiled.get_property("INFERENCE_PRECISION_HINT")
        except RuntimeError:
            return self._precision or ""
        return str(reported.get_type_name())

    @property
    def threads(self) -> int | None:
        """CPU threads that OpenVINO infers with, as it reports them; None where the device has none."""
        try:
            return int(self._compiled.get_property("INFERENCE_NUM_THREADS"))
        except RuntimeError:
            return None

    def acquire(self, timeout: float | None = None) -> Slot | None:
        """Wait for an idle request; None after `timeout` seconds without one, and after `retire`."""
        try:
            slot = self._idle.get(timeout=timeout)
        except queue.Empty:
            return None
        if slot is None:
            self._idle.put(None)  # for everyone else who waits
        return slot

    def release(self, slot: Slot) -> None:
        """Give a request back to the pool."""
        self._idle.put(slot)

    def retire(self) -> None:
        """Wake everyone who waits in `acquire`; from now on it does not wait for a request."""
        self._idle.put(None)

    def start(self, slot: Slot, done: Done) -> None:
        """Run a request whose input is filled, and call `done` once when it has ended, on another thread.

        Requests are reported in the order of their starts. The slot stays taken until `release`; its outputs
        are valid until then.
        """
        if self._reporter is None:
            self._reporter = threading.Thread(target=self._report, name="qzd-infer", daemon=True)
            self._reporter.start()
        try:
            slot.start()
        except DeviceError as error:
            self._started.put((slot, done, error))
        else:
            self._started.put((slot, done, None))

    def _report(self) -> None:
        while (started := self._started.get()) is not None:
            slot, done, fault = started
            if fault is None:
                try:
                    slot.wait()
                except DeviceError as error:
                    fault = error
            try:
                done(slot, fault)
            except Exception:
                log.exception("a result was lost: its receiver failed")
            del started, slot, done, fault  # a thread that waits must not keep the last frame in memory

    def close(self) -> None:
        """Wait for the requests in progress, then release the device."""
        if self._reporter is not None:
            self._started.put(None)
            self._reporter.join()
        for slot in self._slots:
            with contextlib.suppress(DeviceError):  # nobody waits for its result
                slot.wait()
            del slot._request
        self._slots.clear()
        self._idle = queue.SimpleQueue()
        del self._compiled


def _name_of(model: Path | Bundle) -> str:
    return str(model.model if isinstance(model, Bundle) else model)


def _read(model: Path | Bundle) -> ov.Model:
    try:
        graph = _core().read_model(model) if isinstance(model, Path) else _parse(read_ir(model))
    except (RuntimeError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{_name_of(model)}: OpenVINO cannot read it: {_last_line(error)}",
            wanted="an IR: model.xml with model.bin beside it",
            fix="make the bundle again with `qzd-tools convert`",
        ) from error
    if not any(node.get_type_name() == "FakeQuantize" for node in graph.get_ops()):
        _restore_weights(graph)
    return graph


def _parse(ir: Ir) -> ov.Model:
    """Parse an IR from memory.

    The weights are copied into a tensor that OpenVINO owns. It goes on reading from that tensor, and does not
    keep an array of NumPy alive: OpenVINO 2026.4 crashes when such an array is freed.
    """
    weights = ov.Tensor(ov.Type.u8, ov.Shape([ir.weights.size]))
    weights.data[:] = ir.weights
    return _core().read_model(ir.graph.decode(), weights)


def _restore_weights(graph: ov.Model) -> None:
    """Compute the weights that are stored in eight bits, once, before the device's streams do, in place.

    OpenVINO 2026.4's CPU plugin computes them in each stream when it compiles; with two streams, one model
    in six then inferred with weights that were not yet whole, and went on so until it was loaded again.
    Where activations are quantized too, the plugin keeps the eight bits, and nothing is to be done.
    """
    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(graph)


def _check_graph(graph: ov.Model, model: str) -> tuple[int, int]:
    """Height and width of the input, in pixels."""
    inputs = [f"{i.element_type.get_type_name()} {i.partial_shape}" for i in graph.inputs]
    if len(inputs) != 1 or not inputs[0].startswith("u8 ") or not _is_image(graph.inputs[0].partial_shape):
        raise _wrong_graph(model, "inputs", inputs, "one input, u8 [1,H,W,3]")
    results = [f"{o.element_type.get_type_name()} {o.partial_shape}" for o in graph.outputs]
    if any(o.element_type != ov.Type.f32 or o.partial_shape.is_dynamic for o in graph.outputs):
        raise _wrong_graph(model, "results", results, "float32 results of static shape")
    _, height, width, _ = graph.inputs[0].shape
    return height, width


def _is_image(shape: ov.PartialShape) -> bool:
    return shape.is_static and len(shape) == 4 and shape[0] == 1 and shape[3] == 3


def _wrong_graph(model: str, what: str, found: list[str], wanted: str) -> ModelError:
    fix = "let `qzd-tools convert` make a bundle of the model"
    return ModelError(f"{model}: its {what} are {', '.join(found) or 'none'}", wanted=wanted, fix=fix)


def _choose_precision(model: Path | Bundle, device: str, options: RunOptions) -> InferencePrecision | None:
    """Choose what the device computes in; None leaves the choice to the device.

    A precision that the bundle asks for and the device lacks gives way to f32, or to the device's own if it
    has no f32 either, as an NPU. One that the options ask for does not.

    Raises
    ------
    DeviceError
        The device does not compute in the precision of the options.
    """
    able = _precisions(device)
    if options.precision is not None:
        if options.precision in able:
            return options.precision
        raise DeviceError(
            f"device {device} does not compute in {options.precision}",
            wanted=f"one of {', '.join(able) or 'none'}",
            fix="choose another precision, or leave it out for the one the bundle was validated in",
        )
    validated: InferencePrecision = model.manifest.inference_precision if isinstance(model, Bundle) else "f32"
    for precision in (validated, "f32"):
        if precision in able:
            if precision != validated:
                log.warning("%s does not compute in %s; f32 is used", device, validated)
            return precision
    log.warning("%s does not compute in %s; it uses its own precision", device, validated)
    return None


def _precisions(device: str) -> list[InferencePrecision]:
    """List what every real device behind a device's name computes in."""
    _, _, listed = device.partition(":")
    named = [part.strip().partition("(")[0] for part in listed.split(",") if part.strip()]
    devices = named if device.startswith(VIRTUAL_DEVICES) else [device]
    devices = [d for d in devices if not d.startswith("-") and _is_here(d)] or available_devices()
    abilities = [_core().get_property(d, "OPTIMIZATION_CAPABILITIES") for d in devices]
    return [name for name, ability in ABILITIES.items() if all(ability in each for each in abilities)]


def _compile(
    graph: ov.Model, device: str, options: RunOptions, precision: InferencePrecision | None, model: str
) -> ov.CompiledModel:
    threads = options.threads or usable_cpus()
    config: dict[str, Any] = {"PERFORMANCE_HINT": options.hint.upper()}
    if options.streams:
        config["NUM_STREAMS"] = str(options.streams)
    if precision is not None:
        config["INFERENCE_PRECISION_HINT"] = precision
    if options.requests:
        config["PERFORMANCE_HINT_NUM_REQUESTS"] = options.requests
    if device == "CPU":
        config["INFERENCE_NUM_THREADS"] = threads
    elif "CPU" in device or device == "AUTO":
        _core().set_property("CPU", {"INFERENCE_NUM_THREADS": threads})
    if options.cache_dir is not None:
        try:
            return _core().compile_model(graph, device, {**config, "CACHE_DIR": str(options.cache_dir)})
        except RuntimeError as error:
            log.warning(
                "%s: the compile cache could not be used, so the model is compiled without it: %s. "
                "Free space there or make it writable for faster starts.",
                options.cache_dir,
                _last_line(error),
            )
    try:
        return _core().compile_model(graph, device, config)
    except RuntimeError as error:
        raise DeviceError(
            f"{model}: device {device} cannot compile it: {_last_line(error)}",
            wanted=f"a device that runs the model; here are {', '.join(available_devices())}",
            fix="choose another device, or update the device's driver",
        ) from error


def _busy_requests(compiled: ov.CompiledModel, options: RunOptions) -> int:
    """Count the requests that the device finds best, and for throughput some that wait in its queue.

    Else a stream of the device idles while its last result is decoded and the next frame is laid in.
    """
    best = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
    return best + SPARE_REQUESTS if options.hint == "throughput" else best


def _device_name(device: str) -> str:
    """Return OpenVINO's name of a device, checked against the available ones.

    AUTO and MULTI go on without those of their devices that are missing, if at least one is available.
    OpenVINO itself fails when the library of a listed device cannot be loaded.
    """
    name = device.strip().upper().replace("VPU", "NPU")
    virtual, _, listed = name.partition(":")
    parts = [part.strip() for part in (listed.split(",") if virtual in VIRTUAL_DEVICES else [name])]
    missing = [part for part in parts if part and not part.startswith("-") and not _is_here(_bare(part))]
    left = [part for part in parts if part not in missing]
    if missing and virtual in CHOOSING_DEVICES and any(not part.startswith("-") for part in left):
        log.warning("%s: %s is not available and is left out", name, ", ".join(map(_bare, missing)))
        return f"{virtual}:{','.join(left)}"
    if missing:
        raise DeviceError(
            f"device {_bare(missing[0])} is not available",
            wanted=f"one of {', '.join(available_devices())}, or AUTO",
            fix="correct the device's name, or install its driver and give this user access to it",
        )
    return name


def _bare(part: str) -> str:
    """Return a device's name without the number of requests that MULTI allows in brackets."""
    return part.partition("(")[0]


def _is_here(device: str) -> bool:
    """Only the one plugin is asked: all of them together take 20 MB, and stay."""
    kind, _, number = device.partition(".")
    try:
        found = _core().get_property(kind, "AVAILABLE_DEVICES")
    except RuntimeError:  # no such plugin, or its driver is missing
        return False
    return number in found if number else bool(found)


def _device_fault(device: str, error: Exception) -> QzdError:
    return DeviceError(
        f"device {device} failed while running the model: {_last_line(error)}",
        fix="look at the device's driver log; qzdctl status says which device executes",
    )


def _last_line(error: Exception) -> str:
    """Return the sentence that says what happened, without OpenVINO's source locations."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (telling or lines or [type(error).__name__])[-1]
