"""Signals of the process, read on a thread of their own.

A handler in Python runs only when the main thread comes back from C code, which a device that hangs may
never do. So the interpreter writes each signal's number into a pipe at once, and a thread reads it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence

from qzd_daemon.system.threads import NamedThread

__all__ = ["Signals"]


class Signals:
    """While this context lasts, `received` is called with the number of each of these signals.

    Parameters
    ----------
    numbers : sequence of signal.Signals
    received : callable
        Called on the reading thread.
    """

    def __init__(self, numbers: Sequence[signal.Signals], received: Callable[[signal.Signals], None]) -> None:
        self._numbers = numbers
        self._received = received
        self._thread = NamedThread("qzd-signals", self._read)

    def __enter__(self) -> Signals:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._writer, False)
        self._handlers = {number: signal.signal(number, lambda *_: None) for number in self._numbers}
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._writer)
        self._thread.join()
        os.close(self._reader)

    def _read(self) -> None:
        while numbers := os.read(self._reader, 64):
            for number in numbers:
                self._received(signal.Signals(number))
