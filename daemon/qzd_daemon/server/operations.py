"""The ops that a running daemon answers: each takes a request and returns its result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from qzd_client.requests import (
    DeviceStatus,
    ModelStatus,
    Pong,
    Request,
    SelfTestResult,
    SelfTestStatus,
    Snapshot,
    SnapshotEntry,
    Status,
    StreamRates,
    StreamStatus,
)
from qzd_daemon.config.load import NAME
from qzd_daemon.config.schema import ModelConfig
from qzd_daemon.engine.engine import Engine
from qzd_daemon.engine.models import LoadedModel
from qzd_daemon.server.control import Operation
from qzd_daemon.server.publisher import Publisher
from qzd_daemon.transport.listener import Listener
from qzd_ext import __version__
from qzd_ext.errors import QzdError, UsageError
from qzd_ext.runner import available_devices

__all__ = ["Operations"]


class UnknownModelError(UsageError):
    """A call names a model that does not exist; its code on the wire is `unknown_model`."""

    code = "unknown_model"


class Operations:
    """The ops of the control socket.

    Parameters
    ----------
    engine : Engine
    publisher : Publisher
    listener : Listener
    reload : callable
        Applies the configuration file again; returns the error that kept it from doing so.
    rates : callable
        Returns the rates of a stream by its name.
    problems : callable
        Returns why not everything in the configuration is served.
    """

    def __init__(
        self,
        engine: Engine,
        publisher: Publisher,
        listener: Listener,
        reload: Callable[[], QzdError | None],
        rates: Callable[[str], StreamRates],
        problems: Callable[[], list[str]],
    ) -> None:
        self._engine = engine
        self._publisher = publisher
        self._listener = listener
        self._reload = reload
        self._rates = rates
        self._problems = problems
        self._started_ns = time.time_ns()

    def table(self) -> Mapping[str, Operation]:
        """Every op by its name."""
        return {
            "ping": Operation(self.ping),
            "status": Operation(self.status),
            "streams": Operation(self.streams),
            "models": Operation(self.models),
            "snapshot": Operation(self.snapshot),
            "devices": Operation(self.devices, long=True),
            "self_test": Operation(self.self_test, long=True),
            "load": Operation(self.load, long=True),
            "swap": Operation(self.swap, long=True),
            "rollback": Operation(self.rollback, long=True),
            "unload": Operation(self.unload, long=True),
            "reload": Operation(self.reload, long=True),
        }

    def ping(self, _: Request) -> Pong:
        """Show that the daemon answers."""
        return Pong(__version__, self._publisher.epoch)

    def status(self, request: Request) -> Status:
        """Return an overview of the daemon."""
        return Status(
            version=__version__,
            epoch=self._publisher.epoch,
            pid=os.getpid(),
            started_ns=self._started_ns,
            endpoints=self._listener.endpoints,
            connections=self._listener.connections,
            refused={"/".join(key): count for key, count in sorted(self._listener.refused.items())},
            published=self._publisher.sequence,
            subscriptions=self._publisher.subscriptions,
            streams=self.streams(request),
            models=self.models(request),
            problems=self._problems(),
        )

    def streams(self, _: Request) -> list[StreamStatus]:
        """Return each stream and the state of its source."""
        return [
            StreamStatus(
                name=stream.name,
                source=stream.config.address,
                models=list(stream.config.models),
                when_behind=stream.config.policy,
                state=stream.state.state if stream.state else "waiting",
                reason=stream.state.reason if stream.state else None,
                frames=stream.tally.frames,
                damaged=stream.tally.damaged,
                undecodable=stream.tally.undecodable,
                absent=stream.tally.absent,
                whole_ns=stream.tally.whole_ns,
                rates=self._rates(stream.name),
            )
            for stream in self._engine.streams
        ]

    def models(self, _: Request) -> list[ModelStatus]:
        """Return each model that serves."""
        return [self._describe(name, served) for name, served in self._engine.served.items()]

    def devices(self, _: Request) -> list[DeviceStatus]:
        """Return the devices of this machine, and the models that use them."""
        served = self._engine.served.items()
        return [
            DeviceStatus(device, [n for n, s in served if device in s.info.device.split(",")])
            for device in available_devices()
        ]

    def snapshot(self, _: Request) -> Snapshot:
        """Return the last message of each topic."""
        last = dict(self._publisher.last)
        return Snapshot(
            self._publisher.epoch, [SnapshotEntry(topic, msgspec.Raw(last[topic])) for topic in last]
        )

    def self_test(self, request: Request) -> SelfTestResult:
        """Run the golden frames of one model, or of all."""
        names = [self._name(request)] if request.model is not None else list(self._engine.served)
        for name in names:
            self._engine.self_test(name)
        return SelfTestResult(names)

    def load(self, request: Request) -> ModelStatus:
        """Serve one more model, until the next reload."""
        name, bundle = _given(request, "model"), _given(request, "bundle")
        if not NAME.fullmatch(name):
            raise UsageError(f"{name!r} is not a name for a model", wanted="up to 64 of A-Z a-z 0-9 . _ -")
        if not Path(bundle).is_absolute():
            raise UsageError(f"{bundle}: not an absolute path", wanted="a bundle on the daemon's machine")
        self._engine.load(name, ModelConfig(bundle=bundle, device=request.device or "AUTO"))
        return self._describe(name, self._engine.served[name])

    def swap(self, request: Request) -> ModelStatus:
        """Serve with another bundle, from one frame to the next."""
        name = self._name(request)
        return self._describe(name, self._engine.swap(name, _given(request, "version")))

    def rollback(self, request: Request) -> ModelStatus:
        """Serve with the bundle before the last swap."""
        name = self._name(request)
        return self._describe(name, self._engine.rollback(name))

    def unload(self, request: Request) -> None:
        """Stop serving a model; no stream may use it."""
        self._engine.unload(self._name(request))

    def reload(self, _: Request) -> None:
        """Read the configuration file again."""
        error = self._reload()
        if error is not None:
            raise error

    def _describe(self, name: str, served: LoadedModel) -> ModelStatus:
        detector = served.detector
        manifest = detector.bundle.manifest
        now = time.monotonic()
        age = now - self._engine.tested_at.get(name, now)  # it may be removed at this moment
        return ModelStatus(
            model=served.info,
            bundle=str(detector.bundle.path),
            device=served.device,
            requests=detector.requests,
            task=manifest.task,
            input=(manifest.input.width, manifest.input.height),
            labels=len(manifest.labels.names),
            thresholds=served.selection.used,
            passed_over=str(self._engine.passed_over[name]) if name in self._engine.passed_over else None,
            self_test=SelfTestStatus(age_s=round(age, 1), passed=name not in self._engine.failed_tests),
            directory=self._engine.directory_of(name, served),
        )

    def _name(self, request: Request) -> str:
        name, known = _given(request, "model"), self._engine.served
        if name not in known:
            raise UnknownModelError(f"there is no model {name!r}", wanted=f"one of {', '.join(known)}")
        return name


def _given(request: Request, field: str) -> str:
    value: str | None = getattr(request, field)
    if not value:
        raise UsageError(f"{request.op} needs {field!r}", wanted=f'"{field}": "..." in the call')
    return value
