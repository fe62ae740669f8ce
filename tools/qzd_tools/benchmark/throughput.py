"""How fast models run beside each other: inference alone, in turns, so that noise meets all alike."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from qzd_ext.errors import QzdError
from qzd_ext.runner import Runner, RunOptions, Slot

__all__ = ["throughputs"]


def throughputs(
    models: Sequence[Path],
    options: RunOptions = RunOptions(),
    *,
    rounds: int = 5,
    seconds: float = 0.25,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Inferences a second of each model, the median of turns taken one after the other.

    Parameters
    ----------
    models : sequence of Path
        model.xml of each.
    options : RunOptions
    rounds : int
        Turns for each model.
    seconds : float
        Of one turn.
    clock : callable
        What a second is; `time.process_time` leaves out what other programs take, and counts every core.

    Raises
    ------
    DeviceError
        The device failed.
    """
    runners = [Runner(model, options) for model in models]
    try:
        for runner in runners:
            _rate(runner, 0.1, clock)  # warm-up
        turns = [[_rate(runner, seconds, clock) for runner in runners] for _ in range(rounds)]
        return [statistics.median(rates) for rates in zip(*turns, strict=True)]
    finally:
        for runner in runners:
            runner.close()


def _rate(runner: Runner, seconds: float, clock: Callable[[], float]) -> float:
    """Inferences a second with every request kept busy."""
    lock = threading.Lock()
    faults: list[Exception] = []
    done = 0

    def finished(slot: Slot, error: Exception | None) -> None:
        nonlocal done
        with lock:
            done += 1
        if error is not None:
            faults.append(error)
        runner.release(slot)

    begin = clock()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end and not faults:
        slot = runner.acquire()
        assert slot is not None
        runner.start(slot, finished)
    idle = [runner.acquire() for _ in range(runner.requests)]  # wait for those under way
    elapsed = clock() - begin
    for slot in idle:
        assert slot is not None
        runner.release(slot)
    for fault in faults:
        assert isinstance(fault, QzdError)
        raise fault
    return done / elapsed
