"""What is served changes while frames flow: no frame is lost, and none is answered twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import cv2
import msgspec
import pytest

from qzd_client import messages
from qzd_daemon.config.schema import Config, ModelConfig, ServiceConfig, StreamConfig
from qzd_daemon.engine import models
from qzd_daemon.engine.engine import Engine
from qzd_daemon.engine.stream import Stream
from qzd_daemon.sources.ingest import IngestRegistry
from qzd_ext.cpus import usable_cpus
from qzd_ext.errors import BundleError, DeviceError, GateError, QzdError, SourceError, UsageError
from support.tiny_model import POISON, Fault, paint, write_tiny_bundle
from support.videos import write_clip
from support.waiting import until

replace = msgspec.structs.replace
M = TypeVar("M", bound=messages.Message)


class Running:
    """An engine with everything that it published."""

    def __init__(self) -> None:
        self.messages: list[messages.Message] = []
        self._changed = threading.Condition()
        self.engine = Engine(self._publish, lambda: None, IngestRegistry(2**20))

    def _publish(self, topic: str, message: messages.Message) -> None:
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()

    def serve(self, config: Config) -> None:
        self.engine.apply(config)
        self.engine.start_streams()

    def stop(self, timeout: float) -> bool:
        stopped, self.engine = self.engine, Engine(self._publish, lambda: None, IngestRegistry(1))
        return stopped.stop(timeout)

    def wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, 30), self.messages[-3:]

    def wait_for_state(self, *states: str) -> None:
        self.wait(lambda: {s.state for s in self.of(messages.StreamState)} >= set(states))

    def of(self, kind: type[M], stream: str | None = None) -> list[M]:
        found = [m for m in self.messages if isinstance(m, kind)]
        return [m for m in found if stream in (None, getattr(m, "stream", None))]


@pytest.fixture
def running() -> Iterator[Running]:
    running = Running()
    yield running
    assert running.engine.stop(20)
    assert not [t for t in threading.enumerate() if t.name.startswith("qzd")]


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    """Bundles 1 and 2 in one directory; number 3 will be bad."""
    for version in ("1", "2"):
        write_tiny_bundle(tmp_path / "models" / version, version=version)
    return tmp_path / "models"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", [paint((i % 8, 1, "red")) for i in range(600)])


def config(bundle: Path, *streams: str, source: Path, **model: Any) -> Config:
    return Config(
        models={"tiny": ModelConfig(bundle=str(bundle), **{"device": "CPU", **model})},
        streams={name: StreamConfig(source=str(source), model="tiny", max_fps=400) for name in streams},
        service=ServiceConfig(inference_timeout_s=20),
    )


def test_swap_when_frames_flow_loses_none_and_answers_none_twice(
    running: Running, versions: Path, clip: Path
) -> None:
    running.serve(config(versions / "1", "a", "b", source=clip))
    running.engine.apply(config(versions, "a", "b", source=clip))  # now a directory: 2 is the highest
    for version in ("1", "2", "1"):
        running.engine.swap("tiny", version)
    running.wait(lambda: sum(s.state == "ended" for s in running.of(messages.StreamState)) == 2)
    for stream in ("a", "b"):
        published = running.of(messages.Detections, stream)
        assert [m.frame for m in published] == list(range(600))
        assert {m.outcome for m in published} == {"ok"}
        used = [m.model.version for m in published]
        switches = [v for i, v in enumerate(used) if i == 0 or used[i - 1] != v]
        assert switches == ["1", "2", "1", "2", "1"][: len(switches)]
        assert len({m.model.digest for m in published}) == 2
    assert [(m.model.version, m.state) for m in running.of(messages.ModelState)] == [
        ("1", "loaded"),
        ("2", "swapped"),
        ("1", "swapped"),
        ("2", "swapped"),
        ("1", "swapped"),
    ]


def test_swap_when_the_new_bundle_fails_its_test_keeps_the_old(
    running: Running, versions: Path, clip: Path
) -> None:
    running.serve(config(versions, "a", source=clip))
    write_tiny_bundle(versions / "3", version="3", golden_label="green")
    with pytest.raises(GateError, match="golden frame 0"):
        running.engine.swap("tiny", "3")
    assert running.engine.served["tiny"].info.version == "2"
    running.wait_for_state("ended")
    assert {m.outcome for m in running.of(messages.Detections)} == {"ok"}


@pytest.mark.parametrize("version", ["9", "../models/1", "", "..", "x" * 300])
def test_swap_when_there_is_no_such_version_says_so(
    running: Running, versions: Path, clip: Path, version: str
) -> None:
    running.serve(config(versions, source=clip))
    with pytest.raises(UsageError, match="there is no version"):
        running.engine.swap("tiny", version)


def test_swap_when_the_bundle_cannot_be_read_says_so(running: Running, versions: Path, clip: Path) -> None:
    running.serve(config(versions, source=clip))
    (versions / "3").mkdir()
    (versions / "3" / "bundle.toml").symlink_to("x" * 300)  # as root, all that has a mode can be read
    with pytest.raises(BundleError, match="3: cannot be read: File name too long"):
        running.engine.swap("tiny", "3")


def test_rollback_when_swapped_goes_back_and_then_no_further(
    running: Running, versions: Path, clip: Path
) -> None:
    running.serve(config(versions, source=clip))
    running.engine.swap("tiny", "1")
    assert running.engine.rollback("tiny").info.version == "2"
    assert running.of(messages.ModelState)[-1].state == "rolled_back"
    with pytest.raises(UsageError, match="no other bundle since the start"):
        running.engine.rollback("tiny")


def test_apply_when_a_stream_is_added_and_one_removed_leaves_the_third_alone(
    running: Running, versions: Path, clip: Path
) -> None:
    running.serve(config(versions, "stays", "goes", source=clip))
    running.wait(lambda: len(running.of(messages.Detections, "goes")) > 5)
    running.serve(config(versions, "stays", "comes", source=clip))
    running.wait(lambda: sum(s.state == "ended" for s in running.of(messages.StreamState)) == 2)
    for name in ("stays", "comes"):
        assert [m.frame for m in running.of(messages.Detections, name)] == list(range(600))
    gone = running.of(messages.Detections, "goes")
    assert [m.frame for m in gone] == list(range(len(gone)))
    said = [m for m in running.messages if getattr(m, "stream", "") == "goes"]
    assert isinstance(said[-1], messages.StreamState)
    assert said[-1].state == "removed"
    assert [m.state for m in running.of(messages.ModelState)] == ["loaded"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda c: replace(c, streams={"x": StreamConfig(source="/nowhere.mp4", model="tiny")}), SourceError),
        (lambda c: replace(c, models={**c.models, "new": ModelConfig(bundle="/nowhere")}), QzdError),
        (lambda c: replace(c, models={"tiny": replace(c.models["tiny"], device="GPU.9")}), QzdError),
        (lambda c: replace(c, models={"tiny": replace(c.models["tiny"], bundle="x" * 300)}), BundleError),
    ],
)
def test_apply_when_a_part_cannot_be_used_changes_nothing(
    running: Running, versions: Path, clip: Path, change: Callable[[Config], Config], error: type[QzdError]
) -> None:
    good = config(versions, "a", source=clip)
    running.serve(good)
    with pytest.raises(error):
        running.engine.apply(change(good))
    running.wait_for_state("ended")
    assert [m.frame for m in running.of(messages.Detections)] == list(range(600))
    assert list(running.engine.served) == ["tiny"]


def test_apply_when_a_higher_version_lies_there_serves_it(
    running: Running, versions: Path, clip: Path
) -> None:
    running.serve(config(versions, source=clip))
    running.engine.apply(config(versions, source=clip))
    assert [m.model.version for m in running.of(messages.ModelState)] == ["2"]
    write_tiny_bundle(versions / "10", version="10")
    running.engine.apply(config(versions, source=clip))
    assert [m.model.version for m in running.of(messages.ModelState)] == ["2", "10"]


def test_apply_when_a_link_leads_to_another_bundle_serves_it_and_goes_back_too(
    running: Running, versions: Path, clip: Path
) -> None:
    current = versions / "current"
    for version in ("1", "2", "1"):
        current.unlink(missing_ok=True)
        current.symlink_to(versions / version)
        running.serve(config(current, source=clip))
    assert [m.model.version for m in running.of(messages.ModelState)] == ["1", "2", "1"]
    assert running.engine.rollback("tiny").info.version == "2"
    running.serve(config(current, source=clip))  # nobody has moved the link
    assert running.engine.served["tiny"].info.version == "2"


def test_rollback_when_the_same_bundle_was_loaded_again_goes_to_the_one_before(
    running: Running, versions: Path, clip: Path
) -> None:
    running.serve(config(versions, source=clip))
    running.engine.swap("tiny", "1")
    running.engine.swap("tiny", "1")
    running.serve(config(versions / "1", source=clip, confidence=0.4))
    assert running.engine.rollback("tiny").info.version == "2"


def test_idle_when_a_stream_is_replaced_is_not_true_meanwhile(
    running: Running, versions: Path, clip: Path
) -> None:
    idle: list[bool] = []
    running.engine = Engine(running._publish, lambda: idle.append(running.engine.idle), IngestRegistry(1))
    slow = config(versions, "a", source=clip)
    for max_fps in (20, 10):
        running.serve(replace(slow, streams={"a": replace(slow.streams["a"], max_fps=max_fps)}))
    assert idle == [False, False, False]  # the old one's end, and twice the end of a change
    running.serve(config(versions, source=clip))
    assert idle[-1]


def test_stop_when_streams_are_being_replaced_starts_no_new_one(running: Running, tmp_path: Path) -> None:
    bundle, images = faulty(tmp_path, "slow", [POISON], dim=3)
    running.serve(config(bundle, "a", source=images))
    running.wait_for_state("running")
    time.sleep(0.1)
    changed = config(bundle, "b", source=images)
    engine = running.engine

    def change() -> None:
        engine.apply(changed)
        engine.start_streams()

    changing = threading.Thread(target=change)
    changing.start()
    until(lambda: engine._config == changed)
    assert running.stop(20)
    changing.join(20)
    assert {m.stream for m in running.messages if hasattr(m, "stream")} == {"a"}
    assert not [m for m in running.of(messages.StreamState) if m.state == "removed"]


@pytest.mark.parametrize("change", [{"confidence": 0.4}, None])
def test_stop_when_a_change_waits_for_frames_of_the_model_before_waits_for_them_too(
    running: Running, tmp_path: Path, change: dict[str, float] | None
) -> None:
    bundle, images = faulty(tmp_path, "slow", [POISON, (3, 3, "green"), (4, 4, "green")], dim=2)
    running.serve(config(bundle, "a", source=images, requests=2))
    running.wait_for_state("running")
    time.sleep(0.1)
    changed = config(bundle, "a", source=images, requests=2, **(change or {}))
    if change is None:
        changed = replace(changed, models={"other": changed.models["tiny"]}, streams={})
    changing = threading.Thread(target=running.engine.apply, args=(changed,))
    changing.start()
    until(lambda: running.engine._config == changed)  # it may be a while until the model is loaded
    assert running.stop(20)
    assert [(m.frame, m.outcome) for m in running.of(messages.Detections)] == [(n, "ok") for n in range(3)]
    changing.join(20)


def test_stop_when_it_has_no_time_for_a_change_leaves_no_model_open(
    running: Running, versions: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.engine.apply(config(versions, "a", source=clip))
    hanging, go_on, join = threading.Event(), threading.Event(), Stream.join

    def join_slowly(stream: Stream, timeout: float) -> bool:
        hanging.set()
        return go_on.wait(20) and join(stream, timeout)

    monkeypatch.setattr(Stream, "join", join_slowly)
    changed = config(versions, source=clip, confidence=0.4)
    with ThreadPoolExecutor() as pool:
        changing = pool.submit(running.engine.apply, changed)
        assert hanging.wait(20)
        assert running.stop(0)
        go_on.set()
        changing.result(20)
    assert not [t for t in threading.enumerate() if t.name.startswith("qzd-infer")]


def test_start_streams_when_a_model_is_being_loaded_does_not_wait_for_it(
    running: Running, versions: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.engine.apply(config(versions, "a", source=clip))
    loading, go_on, load = threading.Event(), threading.Event(), models.load

    def load_slowly(*arguments: Any) -> models.LoadedModel:
        loading.set()
        go_on.wait(20)
        return load(*arguments)

    monkeypatch.setattr(models, "load", load_slowly)
    more = ModelConfig(bundle=str(versions / "1"), device="CPU")
    changing = threading.Thread(target=running.engine.load, args=("more", more))
    changing.start()
    assert loading.wait(20)
    running.engine.start_streams()
    running.wait_for_state("running")
    assert list(running.engine.served) == ["tiny"]
    go_on.set()
    changing.join(20)
    assert list(running.engine.served) == ["tiny", "more"]


def test_apply_when_a_removed_stream_has_a_frame_on_a_hung_device_skips_what_is_left_and_then_removes_it(
    running: Running, tmp_path: Path
) -> None:
    bundle, images = faulty(tmp_path, "slow", [POISON, (3, 3, "green")])
    hasty = config(bundle, "a", source=images, requests=1)
    hasty = replace(hasty, service=ServiceConfig(inference_timeout_s=0.1))
    running.serve(hasty)
    running.wait_for_state("running")
    time.sleep(0.1)
    running.serve(replace(hasty, streams={}))
    said = [getattr(m, "outcome", None) or getattr(m, "state", "") for m in running.messages]
    assert said == ["loaded", "running", "error", "skipped", "removed"]
    assert running.stop(20)
    assert len(running.messages) == len(said)


def test_stop_when_nothing_is_under_way_needs_no_time(running: Running, versions: Path, clip: Path) -> None:
    served = config(versions, source=clip)
    running.serve(replace(served, models={**served.models, "more": served.models["tiny"]}))
    assert running.stop(0)


def test_load_and_unload_leave_a_higher_version_of_another_model_to_swap_and_reload(
    running: Running, versions: Path, clip: Path
) -> None:
    running.serve(config(versions, source=clip))
    write_tiny_bundle(versions / "3", version="3", golden_label="green")  # it would fail its test
    running.engine.load("more", ModelConfig(bundle=str(versions / "1"), device="CPU"))
    running.engine.unload("more")
    assert running.engine.served["tiny"].info.version == "2"
    with pytest.raises(GateError):
        running.engine.apply(config(versions, source=clip))


def test_self_test_when_models_are_swapped_meanwhile_ends(
    running: Running, versions: Path, clip: Path
) -> None:
    running.serve(config(versions, source=clip))
    swaps = threading.Thread(target=lambda: [running.engine.swap("tiny", str(1 + i % 2)) for i in range(10)])
    swaps.start()
    while swaps.is_alive():
        running.engine.self_test("tiny")
    swaps.join()
    assert running.engine.failed_tests == set()


def test_self_test_when_the_device_does_not_answer_has_failed(
    running: Running, versions: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qzd_ext.detector.SELF_TEST_SECONDS", 0.05)
    running.serve(config(versions, source=clip, requests=1))
    detector = running.engine.served["tiny"].detector
    slot = detector.acquire(20)
    assert slot is not None
    with pytest.raises(DeviceError, match="came free"):
        running.engine.self_test("tiny")
    assert running.engine.failed_tests == {"tiny"}
    detector.release(slot)


def test_self_test_when_the_bundle_was_replaced_tests_the_one_that_serves(
    running: Running, versions: Path, clip: Path
) -> None:
    running.serve(config(versions, source=clip))
    (versions / "2" / "golden" / "0.json").write_text("another")
    running.engine.self_test("tiny")
    assert not running.engine.failed_tests


def test_stream_when_its_source_fails_says_so_after_its_last_frame(running: Running, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "slow", fault="slow")
    clip = write_clip(tmp_path / "clip.mp4", [paint(POISON) // 8] * 2)
    looped = config(bundle, "a", source=clip)
    running.engine.apply(replace(looped, streams={"a": replace(looped.streams["a"], loop=True)}))
    clip.unlink()
    running.engine.start_streams()
    running.wait_for_state("failed")
    assert [type(m) for m in running.messages[-3:]] == [
        messages.Detections,
        messages.Detections,
        messages.StreamState,
    ]


def test_stop_when_a_model_is_being_loaded_does_not_wait_for_it(
    running: Running, versions: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.serve(config(versions, "a", source=clip))
    loading, stopped = threading.Event(), threading.Event()

    def load_slowly(*arguments: Any) -> models.LoadedModel:
        loading.set()
        stopped.wait(20)
        return load(*arguments)

    load = models.load
    monkeypatch.setattr(models, "load", load_slowly)
    errors: list[QzdError] = []

    def swap() -> None:
        try:
            running.engine.swap("tiny", "1")
        except QzdError as error:
            errors.append(error)

    swapping = threading.Thread(target=swap)
    swapping.start()
    assert loading.wait(20)
    assert running.engine.stop(20)
    stopped.set()
    swapping.join(20)
    assert "the daemon stops" in str(errors[0])
    assert running.engine.served["tiny"].info.version == "2"
    running.engine = Engine(running._publish, lambda: None, IngestRegistry(1))  # that one is stopped


def test_stream_when_it_has_two_models_goes_through_both(
    running: Running, versions: Path, clip: Path
) -> None:
    one = ModelConfig(bundle=str(versions / "1"), device="CPU")
    two = ModelConfig(bundle=str(versions / "2"), device="CPU", confidence=1.0)
    streams = {"a": StreamConfig(source=str(clip), model=("one", "two"))}
    running.serve(Config(models={"one": one, "two": two}, streams=streams))
    running.wait_for_state("ended")
    for name in ("one", "two"):
        published = [m for m in running.of(messages.Detections) if m.model.name == name]
        assert [m.frame for m in published] == list(range(600))
    assert {m.thresholds.confidence for m in running.of(messages.Detections)} == {0.5, 1.0}


def faulty(
    tmp_path: Path, fault: Fault, frames: list[tuple[int, int, str]], dim: int = 1
) -> tuple[Path, Path]:
    """Write a bundle that cannot bear POISON, and images of these cells."""
    images = tmp_path / "images"
    images.mkdir()
    for index, cell in enumerate(frames):
        frame = paint(cell) // dim
        frame[0, 0, 2] -= min(frame[0, 0, 2], index)  # OpenVINO checks a shape only when it changes
        cv2.imwrite(str(images / f"{index:04}.png"), frame)
    return write_tiny_bundle(tmp_path / "faulty", fault=fault), images


def test_load_when_the_first_device_is_not_there_takes_the_next(
    running: Running, versions: Path, clip: Path
) -> None:
    running.serve(config(versions, source=clip, device="GPU.9", fallback=("NPU", "CPU")))
    assert running.engine.served["tiny"].info.device == "CPU"


@pytest.mark.parametrize("within_s", [5, 0])
def test_device_when_it_fails_while_serving_is_an_outcome_and_then_replaced(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within_s: float
) -> None:
    monkeypatch.setattr(
        "qzd_daemon.engine.faults.FAULT_SECONDS", within_s
    )  # 0: as for a stream of few frames
    cells = [(3, 3, "blue"), *[POISON] * 3, *[(3, 3, "green")] * 200]
    bundle, images = faulty(tmp_path, "fail", cells)
    # With two requests, a good frame may end between the faults.
    running.serve(config(bundle, "a", source=images, fallback=("AUTO:CPU",), requests=1))
    running.wait_for_state("ended")
    running.wait(lambda: len(running.of(messages.ModelState)) == 3)
    published = running.of(messages.Detections)
    assert [m.frame for m in published] == list(range(len(cells)))
    assert [m.outcome for m in published] == ["ok", *["error"] * 3, *["ok"] * 200]
    assert "device CPU failed" in (published[1].reason or "")
    states = running.of(messages.ModelState)
    assert [m.state for m in states] == ["loaded", "failed", "swapped"]
    assert states[-1].reason == "AUTO:CPU instead of CPU, which failed"


def test_device_when_it_answers_again_and_no_other_is_there_is_told(running: Running, tmp_path: Path) -> None:
    cells = [*[POISON] * 3, *[(3, 3, "green")] * 60]
    bundle, images = faulty(tmp_path, "fail", cells)
    running.serve(config(bundle, "a", source=images))
    running.wait(lambda: len(running.of(messages.ModelState)) == 3)
    states = running.of(messages.ModelState)
    assert [m.state for m in states] == ["loaded", "failed", "loaded"]
    assert states[-1].reason == "device CPU answers again"


def test_device_when_a_self_test_has_cleared_it_is_not_given_up_for_one_fault(
    running: Running, tmp_path: Path
) -> None:
    bundle, images = faulty(tmp_path, "fail", [POISON])
    running.serve(config(bundle, source=images))
    errors: list[messages.Detections] = []

    def ask(red: int) -> None:
        frame, answered = paint(POISON), threading.Event()
        frame[0, 0, 2] = red  # OpenVINO checks a shape only when it changes

        def answer(message: messages.Detections) -> None:
            errors.append(message)
            answered.set()

        running.engine.request_lanes["tiny"].submit(frame, answer)
        assert answered.wait(20)

    for red in (255, 254, 253):
        ask(red)
    running.wait(lambda: len(running.of(messages.ModelState)) == 2)

    def passed() -> bool:  # no other device was found for it
        running.engine.self_test("tiny")
        return len(running.of(messages.ModelState)) > 2

    until(passed)
    for red in (252, 251, 250):
        assert [m.state for m in running.of(messages.ModelState)] == ["loaded", "failed", "loaded"]
        ask(red)
    running.wait(lambda: len(running.of(messages.ModelState)) == 4)
    assert {message.outcome for message in errors} == {"error"}


@pytest.mark.skipif(usable_cpus() < 2, reason="one CPU runs one request after the other")
def test_device_when_it_hangs_is_given_up_as_an_error_and_holds_up_no_other_frame(
    running: Running, tmp_path: Path
) -> None:
    bundle, images = faulty(tmp_path, "slow", [(3, 3, "blue"), POISON, (3, 3, "green"), (4, 4, "green")])
    hasty = replace(
        config(bundle, "a", source=images, requests=2), service=ServiceConfig(inference_timeout_s=1)
    )
    running.serve(hasty)
    running.wait(lambda: len(running.of(messages.Detections)) == 4)
    published = running.of(messages.Detections)
    assert [(m.frame, m.outcome) for m in published] == [(0, "ok"), (1, "error"), (2, "ok"), (3, "ok")]
    assert "has not answered for 1." in (published[1].reason or "")
    running.wait_for_state("ended")


@pytest.mark.parametrize("device", ["CPU", "AUTO", "AUTO:CPU", "MULTI:CPU", "HETERO:CPU"])
@pytest.mark.parametrize("keys", [{}, {"streams": 1, "precision": "f32", "threads": 1, "requests": 3}])
def test_load_whatever_the_device_is_called_serves_on_the_one_that_is_here(
    running: Running, versions: Path, clip: Path, device: str, keys: dict[str, object]
) -> None:
    running.serve(config(versions, source=clip, device=device, **keys))
    assert "CPU" in running.engine.served["tiny"].info.device
    assert running.engine.served["tiny"].info.inference_precision == "f32"
    if keys:
        assert running.engine.served["tiny"].detector.requests == 3
