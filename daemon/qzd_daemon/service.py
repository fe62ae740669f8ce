"""The daemon: its parts put together in one place, in order, and its life.

startup -> serve -> shutdown. Everything that happens meanwhile is a word in one queue, which `serve` reads.
What may live here: the order of things. Parts do not find each other.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from pathlib import Path

from qzd_daemon import models, wire
from qzd_daemon.config import Config
from qzd_daemon.notify import notify
from qzd_daemon.publisher import Publisher
from qzd_daemon.scheduler import Scheduler
from qzd_daemon.signals import Signals
from qzd_daemon.sources import open_source
from qzd_daemon.streams import Stream
from qzd_ext.errors import InterruptedByUser, ResourceError

__all__ = ["Service"]

log = logging.getLogger(__name__)

LOOK_UP_SECONDS = 0.1
STREAM_ENDED = "a stream has ended"
THREAD_DIED = "a thread has died"


class Service:
    """Serves what a configuration asks for, until it is told to stop.

    Parameters
    ----------
    config : Config
    until_idle : bool
        Stop when every stream has ended.
    """

    def __init__(self, config: Config, *, until_idle: bool = False) -> None:
        self._config = config
        self._until_idle = until_idle
        self._words: queue.SimpleQueue[signal.Signals | str] = queue.SimpleQueue()
        self._signalled = False
        self._schedulers: dict[str, Scheduler] = {}
        self._streams: dict[str, Stream] = {}

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
        with Signals((signal.SIGTERM, signal.SIGINT), self._signal):
            self._publisher = Publisher(self._config.publish)
            try:
                self._start_up()
                code = self._serve()
            except BaseException:
                self._shut_down()
                raise
            return code if self._shut_down() else ResourceError.exit_code

    def _start_up(self) -> None:
        """What fails fast comes first: ports, then sources, then models."""
        config, publisher = self._config, self._publisher
        log.info("publishing on %s, epoch %s", ", ".join(publisher.endpoints), publisher.epoch)
        opened = {name: open_source(stream.source) for name, stream in config.streams.items()}
        publisher.start()
        cache_dir = Path(config.service.cache_dir) if config.service.cache_dir else None
        for name, model in config.models.items():
            served = models.load(name, model, cache_dir)
            self._schedulers[name] = Scheduler(name, served)
            self._schedulers[name].start()
            publisher.publish(wire.model_topic(name), wire.ModelState(model=served.info, state="loaded"))
        for name, stream in config.streams.items():
            lane = self._schedulers[stream.model].lane(name, stream.policy, publisher.publish)
            self._streams[name] = Stream(
                name, stream, opened[name], [lane], publisher.publish, lambda: self._words.put(STREAM_ENDED)
            )
        notify("READY=1", f"STATUS={len(self._streams)} streams through {len(self._schedulers)} models")
        log.info("READY: %d streams through %d models", len(self._streams), len(self._schedulers))

    def _serve(self) -> int:
        """Serve until a word says to stop; returns the exit code."""
        self._await_subscribers()
        for stream in self._streams.values():
            stream.start()
        while True:
            match self._words.get():
                case signal.Signals() as number:
                    log.info("%s: stopping", number.name)
                    return InterruptedByUser.exit_code if number is signal.SIGINT else 0
                case word if word == THREAD_DIED:
                    return ResourceError.exit_code
                case _ if self._until_idle and all(s.finished for s in self._streams.values()):
                    log.info("every stream has ended: stopping")
                    return ResourceError.exit_code if any(s.failed for s in self._streams.values()) else 0

    def _await_subscribers(self) -> None:
        count = self._config.publish.wait_for_subscribers
        if count:
            log.info("the sources start when %d subscriptions are there", count)
        while not self._publisher.wait_for_subscriptions(count, LOOK_UP_SECONDS):
            if not self._words.empty():
                return

    def _shut_down(self) -> bool:
        """Stop the sources, finish what is under way, say so, close. False when something hung."""
        notify("STOPPING=1")
        end = time.monotonic() + self._config.service.stop_timeout_s
        for stream in self._streams.values():
            stream.stop()
        hung = [s.name for s in self._streams.values() if not s.join(max(0.0, end - time.monotonic()))]
        if hung:
            log.error("sources that hang are left behind: %s", ", ".join(hung))
        drained = [s.stop(max(0.0, end - time.monotonic())) for s in self._schedulers.values()]
        self._publisher.close()
        log.info("stopped")
        return all(drained)

    def _signal(self, number: signal.Signals) -> None:
        """The first asks for a stop, the second forces it."""
        if self._signalled:
            log.error("%s again: the stop is forced", number.name)
            logging.shutdown()
            os._exit(InterruptedByUser.exit_code)
        self._signalled = True
        self._words.put(number)

    def _thread_died(self, arguments: threading.ExceptHookArgs) -> None:
        assert arguments.exc_value is not None
        name = arguments.thread.name if arguments.thread else "a thread"
        log.critical("%s died: stopping", name, exc_info=arguments.exc_value)
        self._words.put(THREAD_DIED)
