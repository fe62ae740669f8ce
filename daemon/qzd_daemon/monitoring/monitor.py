"""Put metrics and health together, for HTTP and for systemd's status line."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry

from qzd_client import messages
from qzd_daemon.config.schema import HttpConfig
from qzd_daemon.engine.engine import Engine
from qzd_daemon.monitoring.health import Health
from qzd_daemon.monitoring.history import History
from qzd_daemon.monitoring.http import Answer, Http, read_token
from qzd_daemon.monitoring.metrics import Metrics, Reading
from qzd_daemon.monitoring.page import Page
from qzd_daemon.monitoring.rates import Rates
from qzd_daemon.transport.listener import Listener

__all__ = ["Monitor"]

STALLED_SECONDS = 30.0  # the main loop calls `tick` twice per second


class Monitor:
    """Watch the parts of the daemon and report on them.

    Parameters
    ----------
    config : HttpConfig
    engine : Engine
    listener : Listener
    refused : mapping
        Requests answered with an error, by the socket's name and the error's code.

    page : callable, optional
        Makes the page, from the history of the streams.

    Attributes
    ----------
    metrics : Metrics
    rates : Rates
    endpoint : str or None
        The address of the HTTP server.

    Raises
    ------
    EndpointError
        The HTTP address cannot be bound.
    """

    def __init__(
        self,
        config: HttpConfig,
        engine: Engine,
        listener: Listener,
        refused: Mapping[str, Mapping[str, int]],
        page: Callable[[History], Page] | None = None,
    ) -> None:
        self._engine = engine
        self._listener = listener
        self._refused = refused
        self._health = Health()
        self._phase: str | None = "it is starting"
        self._ticked = self._reported = time.monotonic()
        self._reported_frames = 0
        registry = CollectorRegistry()
        self.metrics = Metrics(registry, self._read)
        self.rates = Rates()
        self._history = History() if page else None
        answer = page(self._history).answer if page and self._history else None
        self._http = self._open(config, registry, answer)
        self.endpoint = self._http.address if self._http else None

    def _open(self, config: HttpConfig, registry: CollectorRegistry, page: Answer | None) -> Http | None:
        if config.listen is None:
            return None
        token = read_token(Path(config.token_file)) if config.token_file else None
        return Http(
            config.listen, registry, self.live, self.ready, page, token=token, any_host=config.insecure
        )

    def start(self) -> None:
        """Start to answer over HTTP."""
        if self._http:
            self._http.start()

    def close(self) -> None:
        """Stop to answer."""
        if self._http:
            self._http.close()

    def sent(self, message: messages.Message) -> None:
        """Take in a message that the publisher has sent."""
        self.metrics.observe(message)
        self.rates.observe(message)
        if self._history:
            self._history.observe(message)
        self._health.observe(message)

    def enter(self, phase: str | None) -> None:
        """Set why the daemon is not ready; None while it serves."""
        self.tick()  # the start may have taken minutes
        self._phase = phase

    def tick(self) -> None:
        """Note that the main loop is alive; it calls this."""
        self._ticked = time.monotonic()

    def live(self) -> list[str]:
        """Return why the process should be restarted; empty if it need not."""
        problems = ["a model's device has stopped answering"] if self._engine.hung else []
        silent = time.monotonic() - self._ticked
        if self._phase is None and silent > STALLED_SECONDS:
            problems.append(f"the main loop has been busy for {silent:.0f} s")
        for name in self._listener.stalled(STALLED_SECONDS):
            problems.append(f"the thread of the {name} socket has been busy for {STALLED_SECONDS:.0f} s")
        return problems

    def ready(self) -> list[str]:
        """Return why something in the configuration is not served; empty if everything is."""
        if self._phase is not None:
            return [self._phase, *self._compiling()]
        limits = {stream.name: stream.config.max_down_s for stream in self._engine.streams}
        failed = [f"model {name}: its last self-test failed" for name in sorted(self._engine.failed_tests)]
        passed_over = [
            f"model {name}: {path} has ended the process before and is not tried again"
            for name, path in sorted(self._engine.passed_over.copy().items())
        ]
        return self.live() + failed + passed_over + self._health.problems(limits)

    def _compiling(self) -> list[str]:
        now = time.monotonic()
        return [f"compiling {name}, {now - at:.0f} s" for name, at in self._engine.loading.copy().items()]

    def status(self) -> str:
        """Return one line for people: what runs, its rate since the last line, and what is wrong."""
        now, frames = time.monotonic(), self.metrics.frames
        rate = (frames - self._reported_frames) / max(now - self._reported, 1e-3)
        self._reported, self._reported_frames = now, frames
        what = f"{len(self._engine.streams)} streams through {len(self._engine.served)} models"
        line = f"{what}, {rate:.1f} frames/s, {self.metrics.faults} faults in {frames} frames"
        return "; ".join([line, *(problem.splitlines()[0] for problem in self.ready())])

    def _read(self) -> Mapping[str, Reading]:
        refused = dict(self._listener.refused)
        infos = [served.info for served in self._engine.served.values()]
        failed = self._engine.failed_tests
        return {
            "qzd_queue_depth": {(s.name,): s.waiting for s in self._engine.streams},
            "qzd_frames_left_out_total": {(s.name,): s.left_out for s in self._engine.streams},
            "qzd_stream_damaged_frames_total": {(s.name,): s.tally.damaged for s in self._engine.streams},
            "qzd_stream_undecodable_frames_total": {
                (s.name,): s.tally.undecodable for s in self._engine.streams
            },
            "qzd_stream_absent_frames_total": {(s.name,): s.tally.absent for s in self._engine.streams},
            "qzd_stream_last_whole_timestamp_seconds": {
                (s.name,): s.tally.whole_ns / 1e9 for s in self._engine.streams if s.tally.whole_ns
            },
            "qzd_model_info": {(i.name, i.version, i.digest, i.precision, i.device): 1 for i in infos},
            "qzd_selftest_pass": {(i.name, i.device): i.name not in failed for i in infos},
            "qzd_selftest_age_seconds": {
                (name,): time.monotonic() - at for name, at in self._engine.tested_at.copy().items()
            },
            "qzd_model_swaps_total": {(result,): n for result, n in self._engine.swaps.items()},
            "qzd_subscribers": {(): self._listener.connections["publish"]},
            "qzd_connections_refused_total": {(name, why): n for (name, why), n in refused.items()},
            "qzd_calls_refused_total": {
                (name, code): n for name, codes in self._refused.items() for code, n in dict(codes).items()
            },
        }
