"""Decide from the faults of a device when it has failed, and from its answers when it works again."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable

__all__ = ["DeviceFaults"]

FAULTS, FAULT_SECONDS = 3, 5.0  # a device has failed after this number of faults in a row, or in this time
ANSWERS = 20  # frames in a row that a failed device must answer before it is trusted again


class DeviceFaults:
    """The faults of one model's device.

    A device is trusted at first. Enough faults make it failed, which is reported once. A failed device is
    either replaced (`reset`) or kept (`keep`). A kept device becomes trusted again when it answers enough
    frames in a row, or passes a self-test (`pass_self_test`).

    Few frames per second fail in a row. With many, good frames may end between the faults, so faults within
    a short time count too.

    Parameters
    ----------
    clock : callable
        Returns seconds of a steady clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # answers come from a model's thread, self-tests from any
        self._times: collections.deque[float] = collections.deque(maxlen=FAULTS)
        self._in_a_row = self._answers = 0
        self._failed = self._kept = False

    def note_fault(self) -> bool:
        """Count a fault; True if the device has now failed, once until it is trusted again."""
        with self._lock:
            self._times.append(self._clock())
            self._in_a_row += 1
            self._answers = 0
            often = len(self._times) == FAULTS and self._times[-1] - self._times[0] < FAULT_SECONDS
            if self._failed or not (often or self._in_a_row >= FAULTS):
                return False
            self._failed = True
            return True

    def note_answer(self) -> bool:
        """Count a frame that the device answered; True if a kept device is now trusted again."""
        with self._lock:
            self._in_a_row = 0
            self._answers += 1
            return self._answers >= ANSWERS and self._trust_again()

    def pass_self_test(self) -> bool:
        """Note a self-test that passed; True if a kept device is now trusted again."""
        with self._lock:
            return self._trust_again()

    def keep(self) -> None:
        """Keep the failed device, since no other takes over."""
        with self._lock:
            self._answers = 0
            self._kept = True

    def reset(self) -> None:
        """Forget every fault: another device serves."""
        with self._lock:
            self._reset()

    def _trust_again(self) -> bool:
        kept = self._kept
        if kept:
            self._reset()
        return kept

    def _reset(self) -> None:
        self._times.clear()
        self._in_a_row = self._answers = 0
        self._failed = self._kept = False
