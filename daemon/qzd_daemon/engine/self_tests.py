"""Golden frames from time to time: a device that begins to compute wrongly is noticed while it serves."""

from __future__ import annotations

import logging
import threading

from qzd_daemon.engine.engine import Engine
from qzd_daemon.system.threads import NamedThread
from qzd_ext.errors import QzdError

__all__ = ["SelfTests"]

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0


class SelfTests:
    """Runs each model's self-test again when its last one is too old, on a thread of its own.

    Parameters
    ----------
    engine : Engine
        Its configuration says how old is too old.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stop = threading.Event()
        self._thread = NamedThread("qzd-self-tests", self._run)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Begin no other test; one that runs is not waited for."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            for name in self._engine.due_self_tests():
                try:
                    self._engine.self_test(name)
                except QzdError as error:
                    if not self._stop.is_set():
                        log.error("model %s: %s", name, error)
