"""Inferences per second: keeping every request of a model busy, and models measured in turns."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qzd_ext.bundle import Bundle
from qzd_ext.runner import Runner, RunOptions, Slot

__all__ = ["Samples", "Tally", "infer_repeatedly", "throughputs"]

WARM_UP_SECONDS = 0.1


@dataclass(slots=True)
class Samples:
    """Rates of the rounds, per second, and the latencies of all runs, in milliseconds."""

    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)


class Tally:
    """Counts runs that end on other threads, and keeps the first fault.

    Parameters
    ----------
    samples : Samples
        Receives the rate and the latencies.
    clock : callable
        What a second of the rate is.
    """

    def __init__(self, samples: Samples, clock: Callable[[], float] = time.perf_counter) -> None:
        self.samples = samples
        self._clock = clock
        self._lock = threading.Lock()
        self._fault: Exception | None = None
        self._done = 0

    def end(self, begin: float, fault: Exception | None) -> None:
        """Count a run that began at `begin`, in seconds of `time.perf_counter`."""
        latency = (time.perf_counter() - begin) * 1e3
        with self._lock:
            self._done += 1
            self.samples.latencies.append(latency)
            self._fault = self._fault or fault

    def run(self, start: Callable[[], None], drain: Callable[[], object], seconds: float) -> None:
        """Start runs until the time is over, then wait for the rest.

        Raises
        ------
        QzdError
            A run failed.
        """
        begin, end = self._clock(), time.perf_counter() + seconds
        start()
        while time.perf_counter() < end and self._fault is None:
            start()
        drain()
        if self._fault is not None:
            raise self._fault
        self.samples.rates.append(self._done / (self._clock() - begin))


def infer_repeatedly(runner: Runner, tally: Tally, seconds: float) -> None:
    """Keep every request of a model busy, whatever its inputs hold."""

    def start() -> None:
        slot = runner.acquire()
        assert slot is not None
        begin = time.perf_counter()

        def done(slot: Slot, fault: Exception | None) -> None:
            tally.end(begin, fault)
            runner.release(slot)

        runner.start(slot, done)

    def drain() -> None:
        idle = [runner.acquire() for _ in range(runner.requests)]
        for slot in idle:
            assert slot is not None
            runner.release(slot)

    tally.run(start, drain, seconds)


def throughputs(
    targets: Sequence[tuple[Path | Bundle, RunOptions]],
    *,
    rounds: int = 5,
    seconds: float = 0.25,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Measure models in turns, so that what disturbs one disturbs all.

    Parameters
    ----------
    targets : sequence of (Path or Bundle, RunOptions)
        model.xml of each, or its bundle, and how it runs.
    rounds : int
        Turns per model.
    seconds : float
        Of one turn.
    clock : callable
        What a second is; `time.process_time` leaves out what other programs take, and counts every core.

    Returns
    -------
    list of float
        Inferences per second of each model, the median of its turns.

    Raises
    ------
    DeviceError
        The device failed.
    """
    runners = [Runner(model, options) for model, options in targets]
    try:
        for runner in runners:
            infer_repeatedly(runner, Tally(Samples()), WARM_UP_SECONDS)
        samples = [Samples() for _ in runners]
        for _ in range(rounds):
            for runner, one in zip(runners, samples, strict=True):
                infer_repeatedly(runner, Tally(one, clock), seconds)
        return [statistics.median(one.rates) for one in samples]
    finally:
        for runner in runners:
            runner.close()
