"""The models and streams that are served, and every way in which they change while others run on.

A change is prepared as a whole first: bundles are read, compiled and tested, sources are opened. It is
carried out only when nothing can fail. Start, reload, swap and fallback all go through here.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from qzd_client import messages
from qzd_client.messages import ModelStateName
from qzd_daemon.config.schema import Config, ModelConfig, StreamConfig
from qzd_daemon.engine import models
from qzd_daemon.engine.boot_record import BootRecord
from qzd_daemon.engine.compile_cache import prune
from qzd_daemon.engine.fallback import fall_back_from
from qzd_daemon.engine.lane import Look, Publish
from qzd_daemon.engine.models import LoadedModel
from qzd_daemon.engine.requests import RequestLane
from qzd_daemon.engine.scheduler import Scheduler
from qzd_daemon.engine.stream import Stream
from qzd_daemon.engine.versions import Versions, directory_of, find_version
from qzd_daemon.sources.ingest import IngestRegistry
from qzd_daemon.sources.open import Source, open_source
from qzd_daemon.sources.retry import RetriedSource
from qzd_daemon.system.threads import NamedThread, reserve_threads
from qzd_ext.errors import QzdError, SourceError, UsageError

__all__ = ["Engine"]

log = logging.getLogger(__name__)

STREAM_THREADS = 2  # its own, and one of FFmpeg
MODEL_THREADS = 2
SOURCE_STOP_SECONDS = 2.0  # for all sources together; one that hangs in C code is left behind
STOP_LOOK_SECONDS = 0.25  # how soon a stop is noticed while a removed stream is waited for


class Engine:
    """Serves every model with its scheduler, and reads every stream with its thread.

    Parameters
    ----------
    publish : callable
        Takes a topic and a message.
    stream_ended : callable
        Called when no more frames will come from a stream, and after other streams are configured.
    look : callable, optional
        Takes each result that was published, with its frame, for people to look at.
    registry : IngestRegistry
        Where received frames arrive.

    Attributes
    ----------
    failed_tests : set of str
        Models whose last self-test failed while they served.
    passed_over : dict of str to Path
        By the model's name, a newer bundle that has ended the process before and is not tried again.
    tested_at : dict of str to float
        `time.monotonic()` of each model's last self-test, passed or not.
    loading : dict
        When the load of each model that is being loaded began, monotonic seconds by name.
    swaps : Counter
        Changes of the bundle that serves: `swapped`, `rolled_back`, and `refused` if the old one stayed.
    """

    def __init__(
        self,
        publish: Publish,
        stream_ended: Callable[[], None],
        registry: IngestRegistry,
        boots: BootRecord | None = None,
        look: Look | None = None,
    ) -> None:
        self._publish = publish
        self._look = look
        self._stream_ended = stream_ended
        self._registry = registry
        self._config = Config(models={})
        self._schedulers: dict[str, Scheduler] = {}
        self._streams: dict[str, Stream] = {}
        self._versions = Versions()
        self._boots = boots or BootRecord(None)
        self.passed_over: dict[str, Path] = {}
        self.failed_tests: set[str] = set()
        self.tested_at: dict[str, float] = {}
        self.loading: dict[str, float] = {}
        self.swaps = collections.Counter(swapped=0, rolled_back=0, refused=0)
        self._changing = threading.RLock()  # for the whole of a change; a model may take minutes to compile
        self._in_use = threading.Lock()  # only while a change is carried out, or a model tested
        self._stopping = threading.Event()

    @property
    def streams(self) -> list[Stream]:
        """Return the streams that are configured."""
        return list(self._streams.values())

    @property
    def idle(self) -> bool:
        """Return whether every configured stream has ended or failed; one that is being replaced has not."""
        streams = self._streams.copy()
        done = {name for name, stream in streams.items() if stream.finished or stream.failed}
        return all(name in done for name in self._config.streams)

    @property
    def served(self) -> dict[str, LoadedModel]:
        """Return the models that serve now, by name."""
        return {name: scheduler.served for name, scheduler in self._schedulers.copy().items()}

    @property
    def request_lanes(self) -> dict[str, RequestLane]:
        """Return the request lane of each model, by name."""
        return {name: scheduler.request_lane for name, scheduler in self._schedulers.copy().items()}

    def directory_of(self, name: str, served: LoadedModel) -> str | None:
        """Return what `swap` takes for this bundle; None if the model's `bundle` is a bundle itself."""
        model = self._config.models.get(name)
        return directory_of(model, served.detector.bundle.path) if model else None

    def apply(self, config: Config) -> None:
        """Serve what a configuration asks for; models and streams that stay the same run on.

        New streams wait for `start_streams`.

        Raises
        ------
        QzdError
            Something in it cannot be used. Nothing has changed then.
        """
        with self._changing:
            newer = {n: model for n, model in config.models.items() if self._versions.has_new(n, model)}
            self._apply(config, {**_differing(config.models, self._config.models), **newer})

    def _apply(self, config: Config, new_models: dict[str, ModelConfig]) -> None:
        """Load these models, and leave every other as it is."""
        with contextlib.ExitStack() as undo:
            before = self._config
            new_streams = _differing(config.streams, before.streams)
            opened = {name: self._open(name, stream, undo) for name, stream in new_streams.items()}
            loaded = {name: self._load(name, model, config, undo) for name, model in new_models.items()}
            with reserve_threads(STREAM_THREADS * len(opened) + MODEL_THREADS * len(loaded)):
                pass  # they are started again below, when nothing may fail
            self._check_selections(config, loaded)
            gone = [name for name in before.streams if name in new_streams or name not in config.streams]
            with self._at_work():
                undo.pop_all()  # nothing can fail from here on
                self._config = config
                for scheduler in self._schedulers.values():
                    scheduler.timeout = config.service.inference_timeout_s
                self._remove_streams(gone)
                for name, served in loaded.items():
                    self._put(name, served, "swapped")
                for name in before.models.keys() - config.models.keys():
                    self._remove_model(name)
                for name, source in opened.items():
                    self._streams[name] = self._stream(name, new_streams[name], source)
        self._stream_ended()  # the removed streams may have been the last that had not ended

    def start_streams(self) -> None:
        """Start to read the sources that are not read yet; does nothing once the stop has begun."""
        with self._in_use:
            for stream in self._streams.values():
                if not self._stopping.is_set():
                    stream.start()

    def load(self, name: str, model: ModelConfig) -> None:
        """Serve one more model, until the configuration is applied again.

        Raises
        ------
        QzdError
            A model of this name exists, or the new one cannot be used.
        """
        with self._changing:
            if name in self._config.models:
                raise UsageError(
                    f"model {name}: a model of this name exists", fix="swap it, or unload it first"
                )
            config = msgspec.structs.replace(self._config, models={**self._config.models, name: model})
            self._apply(config, {name: model})

    def unload(self, name: str) -> None:
        """Stop serving a model.

        Raises
        ------
        UsageError
            The model does not exist, or a stream uses it.
        """
        with self._changing:
            self._model(name)
            users = [stream for stream, config in self._config.streams.items() if name in config.models]
            if users:
                raise UsageError(
                    f"model {name}: it is used by {', '.join(users)}",
                    fix="give these streams another model in the configuration file, and reload",
                )
            left = {other: model for other, model in self._config.models.items() if other != name}
            self._apply(msgspec.structs.replace(self._config, models=left), {})

    def swap(self, name: str, version: str) -> LoadedModel:
        """Serve with another of a model's numbered bundles, from one frame to the next.

        Raises
        ------
        QzdError
            The model or version does not exist, or it failed its self-test. The old one then serves on.
        """
        with self._changing:
            model = self._model(name)
            return self._change(name, model, find_version(name, model, version), "swapped")

    def rollback(self, name: str) -> LoadedModel:
        """Serve with the bundle that a model had before its last swap.

        Raises
        ------
        QzdError
            It has had no other, or that one fails its self-test now. The present one then serves on.
        """
        with self._changing:
            model = self._model(name)
            served = self._change(name, model, self._versions.previous(name), "rolled_back")
            self._versions.note_rollback(name)
            return served

    def self_test(self, name: str) -> None:
        """Run a model's golden frames beside the frames that it serves; no change is made meanwhile.

        Raises
        ------
        QzdError
            The self-test failed, or the model does not exist.
        """
        with self._changing, self._at_work():
            self._model(name)
            try:
                models.self_test(name, self._schedulers[name].served.detector)
            except QzdError:
                self.failed_tests.add(name)
                raise
            finally:
                self.tested_at[name] = time.monotonic()
            self.failed_tests.discard(name)
            self._schedulers[name].pass_self_test()

    def due_self_tests(self) -> list[str]:
        """Name the models whose last self-test is older than `self_test_interval_s`; 0 means never."""
        interval = self._config.service.self_test_interval_s
        now = time.monotonic()
        return [name for name, at in self.tested_at.copy().items() if 0 < interval <= now - at]

    @property
    def hung(self) -> bool:
        """Return whether a model has no infer request left that answers."""
        return any(scheduler.hung for scheduler in list(self._schedulers.values()))

    def stop(self, timeout: float) -> bool:
        """Stop the sources, and finish the frames that wait or are in progress; False if something hung.

        A change that is being prepared may take minutes and is not waited for: it fails once it is prepared.
        A change that is being carried out is waited for, since it has frames of its own to finish.
        """
        end = time.monotonic() + timeout
        self._stopping.set()
        in_turn = self._in_use.acquire(timeout=timeout / 2)
        try:
            self._remove_streams(list(self._streams), publish=False)
            schedulers = list(self._schedulers.values())
            for scheduler in schedulers:  # all at once, so that none waits for the frames of another
                scheduler.ask_to_stop()
            drained = [scheduler.stop(end - time.monotonic()) for scheduler in schedulers]
            return all(drained)
        finally:
            if in_turn:
                self._in_use.release()

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """Let a stop wait for the end of this, and refuse to begin after the stop has begun."""
        with self._in_use:
            if self._stopping.is_set():
                raise UsageError("the daemon stops", fix="send the command again after its restart")
            yield

    def _model(self, name: str) -> ModelConfig:
        if name not in self._config.models:
            raise UsageError(f"there is no model {name!r}", wanted=f"one of {', '.join(self._config.models)}")
        return self._config.models[name]

    def _open(self, name: str, config: StreamConfig, undo: contextlib.ExitStack) -> Source:
        opener = functools.partial(open_source, name, config, self._registry)
        try:
            source = opener()
        except SourceError as error:
            if self._config.models:  # a reload is refused; a start serves the other streams
                raise
            source = RetriedSource(opener, error)
        undo.callback(source.close)
        return source

    def _load(self, name: str, model: ModelConfig, config: Config, undo: contextlib.ExitStack) -> LoadedModel:
        cache_dir = Path(config.service.cache_dir) if config.service.cache_dir else None
        bundle_keys = Path(config.security.bundle_keys) if config.security.bundle_keys else None
        path = self._choose(name, model)
        self.loading[name] = time.monotonic()
        try:
            with self._boots.attempt(path):
                chosen = msgspec.structs.replace(model, bundle=str(path))
                served = models.load(name, chosen, cache_dir, bundle_keys)
        finally:
            del self.loading[name]
        if cache_dir is not None:
            prune(cache_dir, config.service.cache_max_mb * 2**20)
        undo.callback(served.detector.close)
        return served

    def _check_selections(self, config: Config, loaded: Mapping[str, LoadedModel]) -> None:
        """Check that streams choose only labels that their models have, or will have once `loaded`."""
        for stream in config.streams.values():
            for name in stream.models:
                (loaded.get(name) or self._schedulers[name].served).select(stream)

    def _choose(self, name: str, model: ModelConfig) -> Path:
        """Find the bundle that is loaded: not one that has ended the process, if there is another version."""
        path, passed_over = self._boots.choose(Path(model.bundle))
        if passed_over is None:
            self.passed_over.pop(name, None)
        else:
            self.passed_over[name] = passed_over
            log.error(
                "model %s: %s has ended the process before, so %s is loaded. "
                "To fix: remove it, or try it again with qzdctl swap",
                *(name, passed_over, path),
            )
        return path

    def _change(self, name: str, model: ModelConfig, path: Path, state: ModelStateName) -> LoadedModel:
        with contextlib.ExitStack() as undo:
            undo.callback(self.swaps.update, refused=1)
            served = self._load(name, msgspec.structs.replace(model, bundle=str(path)), self._config, undo)
            self._check_selections(self._config, {name: served})
            with self._at_work():
                undo.pop_all()
                self._put(name, served, state)
        return served

    def _put(self, name: str, served: LoadedModel, state: ModelStateName, reason: str | None = None) -> None:
        """Serve with a loaded model: a new one, or in place of the one before."""
        path = served.detector.bundle.path
        self._versions.note(name, self._config.models[name], path, self.passed_over.get(name))
        self.failed_tests.discard(name)
        self.tested_at[name] = time.monotonic()
        if name in self._schedulers:
            self._schedulers[name].swap(served)
            self.swaps[state] += 1
        else:
            state = "loaded"
            failed = functools.partial(self._device_failed, name)
            recovered = functools.partial(self._device_recovered, name)
            timeout = self._config.service.inference_timeout_s
            self._schedulers[name] = Scheduler(name, served, failed, recovered, timeout)
            self._schedulers[name].start()
        self._publish_state(name, served, state, reason)

    def _remove_model(self, name: str) -> None:
        scheduler = self._schedulers.pop(name)
        self._versions.forget(name)
        self.failed_tests.discard(name)
        self.tested_at.pop(name, None)
        self.passed_over.pop(name, None)
        scheduler.stop(self._config.service.inference_timeout_s)
        self._publish_state(name, scheduler.served, "removed")

    def _stream(self, name: str, config: StreamConfig, source: Source) -> Stream:
        schedulers = [self._schedulers[model] for model in config.models]
        lanes = [scheduler.lane(name, config, self._publish, self._look) for scheduler in schedulers]
        return Stream(name, config, source, lanes, self._publish, self._stream_ended)

    def _remove_streams(self, names: list[str], *, publish: bool = True) -> None:
        streams = [self._streams.pop(name) for name in names]
        for stream in streams:
            stream.stop()
        end = time.monotonic() + SOURCE_STOP_SECONDS
        for stream in streams:
            if not stream.join(max(0.0, end - time.monotonic())):
                log.warning("stream %s: its source hangs and is left behind", stream.name)
        if publish:
            self._publish_removed(streams)

    def _publish_removed(self, streams: list[Stream]) -> None:
        """Publish `removed` after a stream's last frame, and before any frame of a new source of its name."""
        end = time.monotonic() + self._config.service.inference_timeout_s
        for stream in streams:
            while not stream.wait_finished(STOP_LOOK_SECONDS) and not self._stopping.is_set():
                if time.monotonic() > end:
                    self._skip_rest(stream)
            if not self._stopping.is_set():
                removed = stream.describe("removed")
                self._publish(messages.stream_topic(stream.name), removed)

    def _skip_rest(self, stream: Stream) -> None:
        for lane in stream.lanes:
            self._schedulers[lane.model].skip(lane)

    def _device_recovered(self, name: str, served: LoadedModel) -> None:
        self._publish_state(name, served, "loaded", f"device {served.device} answers again")

    def _device_failed(self, name: str, served: LoadedModel) -> None:
        """Start a thread that loads another: the model's own thread has frames to finish."""
        NamedThread(f"qzd-fallback-{name}", functools.partial(self._fall_back, name, served)).start()

    def _fall_back(self, name: str, failed: LoadedModel) -> None:
        with self._changing:
            scheduler = self._schedulers.get(name)
            if scheduler is None or scheduler.served is not failed:
                return
            self._publish_state(name, failed, "failed", f"device {failed.device} failed again and again")
            rest = fall_back_from(failed, self._model(name))
            if rest is None:
                log.error("model %s: no device is left; add one to models.%s.fallback", name, name)
                scheduler.keep_device()
                return
            try:
                with contextlib.ExitStack() as undo:
                    served = self._load(name, rest, self._config, undo)
                    with self._at_work():
                        undo.pop_all()
                        instead = f"{served.device} instead of {failed.device}, which failed"
                        self._put(name, served, "swapped", instead)
            except QzdError as error:
                log.error("model %s: no other device serves it: %s", name, error)
                scheduler.keep_device()

    def _publish_state(
        self, name: str, served: LoadedModel, state: ModelStateName, reason: str | None = None
    ) -> None:
        log.log(
            logging.ERROR if state == "failed" else logging.INFO,
            "model %s: %s%s",
            *(name, state, f": {reason}" if reason else ""),
        )
        self._publish(
            messages.model_topic(name), messages.ModelState(model=served.info, state=state, reason=reason)
        )


T = TypeVar("T")


def _differing(new: dict[str, T], old: dict[str, T]) -> dict[str, T]:
    """Return the entries that are new, and those whose value has changed."""
    return {name: value for name, value in new.items() if old.get(name) != value}
