"""The daemon: its parts put together in one place, in order, and its life.

startup -> serve -> shutdown. Everything that happens meanwhile is a word in one queue, which `serve` reads.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from pathlib import Path

from qzd_client.requests import Request
from qzd_daemon.config.load import read_config
from qzd_daemon.config.schema import Config
from qzd_daemon.engine.boot_record import BootRecord
from qzd_daemon.engine.engine import Engine
from qzd_daemon.engine.self_tests import SelfTests
from qzd_daemon.monitoring.monitor import Monitor
from qzd_daemon.monitoring.page import Page
from qzd_daemon.monitoring.view import View
from qzd_daemon.server.control import Control
from qzd_daemon.server.inference import Inference
from qzd_daemon.server.ingest import Ingest
from qzd_daemon.server.operations import Operations
from qzd_daemon.server.publisher import Publisher
from qzd_daemon.system.memory import Memory, MemoryGuard, default_limit
from qzd_daemon.system.recent_log import RecentLog
from qzd_daemon.system.signals import Signals
from qzd_daemon.system.systemd import inherited_sockets, more_time, notify, watchdog_interval
from qzd_daemon.system.threads import NamedThread
from qzd_daemon.transport.limits import fit_connections, raise_file_limit
from qzd_daemon.transport.listener import Listener
from qzd_ext.errors import ConfigError, InterruptedByUser, QzdError, ResourceError

__all__ = ["Service"]

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
PROBATION_SECONDS = 10.0  # of frames, until a new bundle is trusted not to end the process
STATUS_SECONDS = 5.0
COMPILE_SECONDS = 900.0  # systemd is asked to wait so long, for models that are compiled for a GPU or NPU
TICK = "nothing has happened"
STREAM_ENDED = "a stream has ended"
THREAD_DIED = "a thread has died"
BOUND_TABLES = ("publish", "control", "inference", "ingest", "http", "security")  # their sockets stay open


class Service:
    """Serves what a configuration asks for, until it is told to stop.

    Parameters
    ----------
    path : Path
        The configuration file; it is read again on SIGHUP.
    config : Config
        What it says now.
    until_idle : bool
        Stop when every stream has ended.
    """

    def __init__(self, path: Path, config: Config, *, until_idle: bool = False) -> None:
        self._path = path
        self._config = config
        self._until_idle = until_idle
        self._words: queue.SimpleQueue[signal.Signals | str] = queue.SimpleQueue()
        self._stop_asked = False
        self._started = False
        self._reading = False  # the sources; not before its subscribers are there
        self._stopping = threading.Event()
        self._reloading = threading.Lock()
        self._boots = BootRecord(Path(config.service.state_dir) if config.service.state_dir else None)
        self._proven_at = float("inf")
        self._reload_asked = threading.Semaphore(0)
        self._next_status = 0.0

    def run(self) -> int:
        """Start, serve and stop.

        Returns
        -------
        int
            The exit code.

        Raises
        ------
        QzdError
            Something that the configuration names cannot be used.
        """
        threading.excepthook = self._thread_died
        with Signals((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), self._signal):
            self._listener = Listener(self._config.security, inherited_sockets())
            try:
                self._open()
            except QzdError:
                self._listener.close()
                raise
            try:
                self._start_up()
                code = self._serve()
            except BaseException:
                self._shut_down()
                raise
            return code if self._shut_down() else ResourceError.exit_code

    def _open(self) -> None:
        """Make the parts and bind their sockets; nothing runs yet."""
        config = fit_connections(self._config, raise_file_limit())
        self._publisher = Publisher(config.publish, self._listener, lambda m: self._monitor.sent(m))
        limit_mb = config.service.memory_mb
        memory = Memory(limit_mb << 20 if limit_mb else default_limit())
        fillers = ("control", "inference", "ingest")
        self._guard = MemoryGuard(memory, lambda: self._listener.disconnect(fillers, "memory"))
        self._ingest = Ingest(config.ingest, self._listener, memory)
        ended = lambda: self._words.put(STREAM_ENDED)  # noqa: E731
        view = View() if self._config.http.page else None
        look = view.take if view else None
        self._engine = Engine(self._publisher.publish, ended, self._ingest.registry, self._boots, look)
        self._self_tests = SelfTests(self._engine)
        operations = Operations(
            self._engine,
            self._publisher,
            self._listener,
            self.reload,
            lambda stream: self._monitor.rates.of(stream),
            lambda: self._monitor.ready(),
        )
        request_lanes = lambda: self._engine.request_lanes  # noqa: E731
        self._inference = Inference(
            config.inference, self._listener, self._publisher.epoch, request_lanes, memory
        )
        self._control = Control(config.control, self._listener, operations.table())
        refused = {
            "control": self._control.refused,
            "inference": self._inference.refused,
            "ingest": self._ingest.refused,
        }
        recent = RecentLog()
        if view:
            logging.getLogger().addHandler(recent)
        status = lambda: operations.status(Request(op="status"))  # noqa: E731
        page = (lambda history: Page(view, history, status, self._accuracy, recent.lines)) if view else None
        self._monitor = Monitor(self._config.http, self._engine, self._listener, refused, page)

    def _accuracy(self) -> dict[str, list[dict[str, object]]]:
        """Return what each model's bundle says about its accuracy, for the page."""
        return {
            name: [
                {"images": one.images, "metrics": one.metrics, "baseline": one.baseline}
                for one in served.detector.bundle.manifest.accuracy
            ]
            for name, served in self._engine.served.items()
        }

    def _start_up(self) -> None:
        log.info("publishing on %s, epoch %s", ", ".join(self._publisher.endpoints), self._publisher.epoch)
        log.info("control on %s", ", ".join(self._control.endpoints) or "no socket: [control] has no bind")
        log.info("HTTP on %s", self._monitor.endpoint or "no socket: [http] has no listen")
        NamedThread("qzd-reload", self._reload_when_asked).start()
        self._listener.start()
        self._guard.start()
        self._publisher.start()
        self._control.start()
        self._monitor.start()
        notify("STATUS=compiling and testing the models")
        with more_time(COMPILE_SECONDS):
            self._engine.apply(self._config)
        self._inference.start()
        self._ingest.start()
        self._self_tests.start()
        self._monitor.enter(None)
        self._started = True
        notify("READY=1", f"STATUS={self._summary()}")
        log.info("READY: %s", self._summary())

    def _serve(self) -> int:
        """Serve until a word says to stop; returns the exit code."""
        waits_for = self._config.publish.wait_for_subscribers
        if waits_for:
            log.info("the sources start when %d subscriptions are there", waits_for)
        while True:
            if not self._reading and self._publisher.wait_for_subscriptions(waits_for, TICK_SECONDS):
                self._reading = True
                self._proven_at = time.monotonic() + PROBATION_SECONDS
                self._engine.start_streams()
            code = self._handle(self._next_word(TICK_SECONDS if self._reading else 0.0))
            if code is not None:
                return code

    def _next_word(self, timeout: float) -> signal.Signals | str:
        try:
            return self._words.get(timeout=timeout) if timeout else self._words.get_nowait()
        except queue.Empty:
            return TICK

    def _handle(self, word: signal.Signals | str) -> int | None:
        """Do what a word says; an exit code ends the service."""
        match word:
            case signal.Signals():
                log.info("%s: stopping", word.name)
                return InterruptedByUser.exit_code if word is signal.SIGINT else 0
            case _ if word == THREAD_DIED:
                return ResourceError.exit_code
            case _ if word == TICK:
                self._tick()
            case _ if self._until_idle and self._engine.idle:
                return self._end_idle()
        return None

    def _end_idle(self) -> int:
        """Log that every stream has ended; returns the exit code, which says whether all came whole."""
        faulty = [s.name for s in self._engine.streams if s.failed or not s.complete]
        log.info("every stream has ended: stopping")
        if faulty:
            log.error("not everything could be decoded whole: %s", ", ".join(faulty))
        return ResourceError.exit_code if faulty else 0

    def _tick(self) -> None:
        """Tell the watchdog that this process works, as long as its devices and threads do."""
        self._monitor.tick()
        if time.monotonic() >= self._proven_at:
            self._boots.prove()
        if time.monotonic() >= self._next_status:
            self._next_status = time.monotonic() + STATUS_SECONDS
            notify(f"STATUS={self._monitor.status()}")
        if watchdog_interval() is not None and not self._monitor.live():
            notify("WATCHDOG=1")

    def _reload_when_asked(self) -> None:
        """Reload on a thread of its own: compiling must not delay a stop, nor the watchdog."""
        while True:
            self._reload_asked.acquire()
            while self._reload_asked.acquire(blocking=False):  # any number of SIGHUPs are one
                pass
            self.reload()

    def reload(self) -> QzdError | None:
        """Read the configuration again and apply it; what cannot be used changes nothing.

        Returns
        -------
        QzdError or None
            Why the old configuration is kept.
        """
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            with self._reloading:  # from its reading on, so that the file's last state is what serves
                self._apply_file()
            self._monitor.metrics.reloaded(applied=True)
            log.info("reloaded: %s", self._summary())
        except QzdError as error:
            return self._refuse(error)
        except Exception as error:  # a reload must not end what serves
            log.exception("the reload failed")
            return self._refuse(ResourceError(f"the reload failed: {type(error).__name__}: {error}"))
        finally:
            if not self._stopping.is_set():
                notify("READY=1", f"STATUS={self._summary()}")
        return None

    def _refuse(self, error: QzdError) -> QzdError:
        self._monitor.metrics.reloaded(applied=False)
        log.error("the old configuration is kept: %s", error)
        return error

    def _apply_file(self) -> None:
        config = read_config(self._path)
        for table in BOUND_TABLES:
            if getattr(config, table) != getattr(self._config, table):
                raise ConfigError(
                    f"{self._path}: [{table}] has changed, which a reload cannot do",
                    fix=f"restart qzd, or put [{table}] back",
                )
        with more_time(COMPILE_SECONDS):
            self._engine.apply(config)
        if self._reading:
            self._engine.start_streams()
        self._config = config

    def _summary(self) -> str:
        return f"{len(self._engine.streams)} streams through {len(self._engine.served)} models"

    def _shut_down(self) -> bool:
        """Stop the sources, finish what is under way, say so, close. False when something hung."""
        self._stopping.set()
        self._boots.forgive()
        notify("STOPPING=1", "STATUS=finishing the frames under way")
        self._monitor.enter("it is stopping")
        self._ingest.refuse()
        self._self_tests.close()
        timeout = self._config.service.stop_timeout_s
        with more_time(timeout):
            drained = self._engine.stop(timeout)
        self._ingest.close()
        self._inference.close()
        self._control.close()
        self._publisher.close()
        self._monitor.close()
        self._guard.close()
        self._listener.close()
        log.info("stopped")
        return drained

    def _signal(self, number: signal.Signals) -> None:
        """Stop at the first SIGTERM or SIGINT, and end at once at the second.

        Before READY nothing is under way, and a model may take minutes to compile: the first will do.
        A SIGHUP does not enter the queue, where a SIGTERM would wait behind hundreds of them.
        """
        if number is signal.SIGHUP:
            self._reload_asked.release()
            return
        if self._stop_asked or not self._started:
            if self._stop_asked:
                log.error("%s again: the stop is forced", number.name)
            else:
                log.info("%s: stopping before anything is served", number.name)
                self._boots.forgive()
            logging.shutdown()
            forced = self._stop_asked or number is signal.SIGINT
            os._exit(InterruptedByUser.exit_code if forced else 0)
        self._stop_asked = True
        self._words.put(number)

    def _thread_died(self, arguments: threading.ExceptHookArgs) -> None:
        assert arguments.exc_value is not None
        name = arguments.thread.name if arguments.thread else "a thread"
        log.critical("%s died: stopping", name, exc_info=arguments.exc_value)
        self._words.put(THREAD_DIED)
