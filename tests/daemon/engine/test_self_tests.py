"""Golden frames are run again while a model serves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qzd_daemon.config.schema import Config, ModelConfig, ServiceConfig
from qzd_daemon.engine.engine import Engine
from qzd_daemon.engine.self_tests import SelfTests
from qzd_daemon.sources.ingest import IngestRegistry
from support.waiting import until


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(lambda *_: None, lambda: None, IngestRegistry(1))
    yield engine
    engine.stop(10)


@pytest.fixture
def tests(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[SelfTests]:
    monkeypatch.setattr("qzd_daemon.engine.self_tests.LOOK_SECONDS", 0.01)
    tests = SelfTests(engine)
    yield tests
    tests.close()
    tests._thread.join(10)


def _config(bundle: Path, interval: float) -> Config:
    model = ModelConfig(bundle=str(bundle), device="CPU", requests=1)
    return Config(models={"tiny": model}, service=ServiceConfig(self_test_interval_s=interval))


def test_a_model_is_tested_again_when_its_last_test_is_too_old(
    engine: Engine, tests: SelfTests, tiny_bundle: Path
) -> None:
    engine.apply(_config(tiny_bundle, 0.02))
    loaded = engine.tested_at["tiny"]
    tests.start()
    until(lambda: engine.tested_at["tiny"] > loaded)
    assert not engine.failed_tests


def test_a_model_that_fails_a_later_test_is_named_and_passes_again(
    engine: Engine, tests: SelfTests, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qzd_ext.detector.SELF_TEST_SECONDS", 0.05)
    engine.apply(_config(tiny_bundle, 0.02))
    detector = engine.served["tiny"].detector
    slot = detector.acquire(20)
    assert slot is not None
    tests.start()
    until(lambda: engine.failed_tests == {"tiny"})
    detector.release(slot)
    until(lambda: not engine.failed_tests)


@pytest.mark.parametrize(("interval", "due"), [(0.0, []), (3600.0, []), (0.001, ["tiny"])])
def test_no_test_is_due_before_its_time(
    engine: Engine, tiny_bundle: Path, interval: float, due: list[str]
) -> None:
    engine.apply(_config(tiny_bundle, interval))
    time.sleep(0.002)
    assert due == engine.due_self_tests()
