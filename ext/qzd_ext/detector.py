"""Frame in, detections out: preprocess, infer, decode, with the time that each took.

The tools validate with this class and the daemon serves with it, so that what was measured is what runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from qzd_ext.bundle import Bundle
from qzd_ext.decode import Decoder
from qzd_ext.detections import Classes, Detections, FloatArray
from qzd_ext.errors import DeviceError, ModelError, QzdError
from qzd_ext.geometry import Frame, Picture, Transform, prepare
from qzd_ext.golden import TOLERANCES, compare, read_golden
from qzd_ext.manifest import Thresholds
from qzd_ext.runner import Runner, RunOptions, Slot

__all__ = ["Detector", "Result", "Run", "Timing"]

SELF_TEST_SECONDS = 60.0  # that a golden frame waits beside the frames that are served


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds that each stage of one frame took."""

    preprocess: float
    inference: float
    postprocess: float


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What was found in a frame, and how long it took."""

    found: Detections | Classes
    timing: Timing


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A frame that a request runs with.

    Attributes
    ----------
    slot : Slot
    transform : Transform
        How the frame lies in the request's input.
    begin, prepared : float
        `time.perf_counter()` before and after the frame was laid in.
    """

    slot: Slot
    transform: Transform
    begin: float
    prepared: float


class Detector:
    """A bundle's model on a device.

    `acquire`, `begin`, `Slot.wait`, `result` and `release` are the steps of one frame, for a caller that has
    threads of its own. `submit` does them all and reports results in the order of the frames.

    Parameters
    ----------
    bundle : Bundle
    options : RunOptions
    thresholds : Thresholds, optional
        Instead of the bundle's own.

    Raises
    ------
    BundleError
        The bundle's IR is no longer what its manifest says.
    ModelError
        The model's tensors are not what the bundle's head needs.
    DeviceError
        The device is not available, or cannot compile the model.
    """

    def __init__(
        self, bundle: Bundle, options: RunOptions = RunOptions(), thresholds: Thresholds | None = None
    ) -> None:
        self.bundle = bundle
        self.thresholds = thresholds or bundle.manifest.thresholds
        self._input = bundle.manifest.input
        self._runner = Runner(bundle, options)
        try:
            self._check_input_size()
            self._decoder = Decoder(bundle.manifest, self._runner.output_shapes, bundle.priors)
        except BaseException:
            self._runner.close()
            raise
        self._in_flight = 0
        self._closed = False
        self._changed = threading.Condition()

    def _check_input_size(self) -> None:
        wanted = (self._input.width, self._input.height)
        got = self._runner.input_size
        if got != wanted:
            raise ModelError(
                f"{self.bundle.model}: its input is {got[0]}x{got[1]}",
                wanted=f"{wanted[0]}x{wanted[1]}, as the manifest's [input] says",
                fix="make the bundle again with `qzd-tools convert`",
            )

    @property
    def requests(self) -> int:
        """Frames that may be under way at once."""
        return self._runner.requests

    @property
    def precision(self) -> str:
        """What the device computes in where the graph is not quantized: f32, f16 or bf16."""
        return self._runner.precision

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that really execute the model."""
        return self._runner.devices

    def detect(self, frame: Frame | Picture) -> Result:
        """Find what is in one frame, and wait for it.

        Parameters
        ----------
        frame : (h, w, 3) uint8, BGR

        Raises
        ------
        DeviceError
            The device failed.
        """
        slot = self._runner.acquire()
        assert slot is not None
        try:
            run = self._prepare(slot, frame)
            slot.infer()
            return self.result(run)
        finally:
            self._runner.release(slot)

    def acquire(self, timeout: float | None = None) -> Slot | None:
        """Wait for an idle request; None after `timeout` seconds without one, and after `retire`."""
        return self._runner.acquire(timeout)

    def release(self, slot: Slot) -> None:
        """Give a request back that does not run."""
        self._runner.release(slot)

    def retire(self) -> None:
        """Wake everyone who waits in `acquire`; from now on it does not wait for a request."""
        self._runner.retire()

    def begin(self, slot: Slot, frame: Frame | Picture) -> Run:
        """Lay a frame into an acquired request and start it.

        Parameters
        ----------
        slot : Slot
            From `acquire`; the caller releases it, after the run or after an error.
        frame : (h, w, 3) uint8, BGR, or Picture
            Not needed any longer when this returns.

        Raises
        ------
        DataError
            The frame is not a picture.
        DeviceError
            The device refuses it.
        """
        run = self._prepare(slot, frame)
        slot.start()
        return run

    def result(
        self, run: Run, thresholds: Thresholds | None = None, floors: FloatArray | None = None
    ) -> Result:
        """Decode what a run has found, once `run.slot.wait()` has returned.

        Parameters
        ----------
        run : Run
        thresholds : Thresholds, optional
            The detector's, if omitted.
        floors : (classes,) float32, optional
            The least score of each class, not below the confidence of `thresholds`.

        Raises
        ------
        ModelError
            The model's results cannot be decoded.
        """
        inferred = time.perf_counter()
        found = self._decoder.decode(run.slot.outputs, run.transform, thresholds or self.thresholds, floors)
        decoded = time.perf_counter()
        preprocess, inference = run.prepared - run.begin, inferred - run.prepared
        return Result(found, Timing(preprocess * 1e3, inference * 1e3, (decoded - inferred) * 1e3))

    def start(self, slot: Slot, frame: Frame, done: Callable[[Result | QzdError], None]) -> None:
        """Lay a frame into an acquired request and run it.

        Parameters
        ----------
        slot : Slot
            From `acquire`; it is released when `done` has returned.
        frame : (h, w, 3) uint8, BGR
            Not needed any longer when this returns.
        done : callable
            Called once with the result or the error, on another thread.
        """
        try:
            run = self._prepare(slot, frame)
        except BaseException:
            self._runner.release(slot)
            raise
        with self._changed:
            self._in_flight += 1

        def finished(slot: Slot, fault: QzdError | None) -> None:
            try:
                done(fault or self._outcome(run))
            finally:
                self._runner.release(slot)
                with self._changed:
                    self._in_flight -= 1
                    self._changed.notify_all()

        self._runner.start(slot, finished)

    def submit(self, frame: Frame, done: Callable[[Result | QzdError], None]) -> None:
        """Wait for an idle request, then `start` the frame on it."""
        slot = self.acquire()
        assert slot is not None
        self.start(slot, frame, done)

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until no frame is under way; False when `timeout` seconds were not enough."""
        with self._changed:
            return self._changed.wait_for(lambda: self._in_flight == 0, timeout)

    def self_test(self) -> list[str]:
        """Run the bundle's golden frames on this device.

        Returns
        -------
        list of str
            What differs by more than the precision's tolerance; empty when all is well, and when the
            bundle has no golden frames.

        Raises
        ------
        DeviceError
            The device failed.
        """
        manifest = self.bundle.manifest
        tolerance = TOLERANCES[manifest.precision]
        problems = []
        for index, golden in enumerate(read_golden(self.bundle)):
            found = self._detect_golden(golden.frame)
            differences = compare(golden.expected, found, tolerance, manifest.thresholds.confidence)
            problems += [f"golden frame {index}: {difference}" for difference in differences]
        return problems

    def _detect_golden(self, frame: Frame) -> Detections | Classes:
        """Golden frames were made with the bundle's own thresholds, whatever is served with."""
        slot = self._runner.acquire(SELF_TEST_SECONDS)
        if slot is None:
            found = f"no request of {','.join(self.devices)} came free for the self-test"
            raise DeviceError(found, fix="look at the device's driver log; its requests hang")
        try:
            run = self._prepare(slot, frame)
            slot.infer()
            return self._decoder.decode(slot.outputs, run.transform, self.bundle.manifest.thresholds)
        finally:
            self._runner.release(slot)

    def close(self) -> None:
        """Wait for the frames under way, then release the device; a second call does nothing."""
        self.drain()
        with self._changed:
            closed, self._closed = self._closed, True
        if not closed:
            self._runner.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, KeyboardInterrupt):  # it may have come when a frame was counted and not started
            self._in_flight = 0  # those that were started are waited for as the runner is closed
        self.close()

    def _prepare(self, slot: Slot, frame: Frame | Picture) -> Run:
        begin = time.perf_counter()
        transform = prepare(frame, self._input, slot.input)
        return Run(slot, transform, begin, time.perf_counter())

    def _outcome(self, run: Run) -> Result | QzdError:
        try:
            return self.result(run)
        except QzdError as error:
            return error
        except Exception as error:  # noqa: BLE001 - it must reach the caller, whatever it is
            return DeviceError(f"{type(error).__name__}: {error}")
