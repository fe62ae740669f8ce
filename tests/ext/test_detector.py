"""The detector: a frame in, detections out, one at a time and many at once."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest

from qzd_ext import bundle as bundles
from qzd_ext.bundle import Bundle
from qzd_ext.detections import Detections
from qzd_ext.detector import Detector, Result
from qzd_ext.errors import DataError, ModelError, QzdError
from qzd_ext.manifest import Input, Thresholds
from qzd_ext.runner import RunOptions, Slot
from support.tiny_model import paint, write_tiny_bundle


@pytest.fixture
def tiny(tiny_bundle: Path) -> Bundle:
    return bundles.read(tiny_bundle)


def _cells(result: Result | QzdError) -> list[tuple[tuple[float, ...], int]]:
    assert isinstance(result, Result)
    assert isinstance(result.found, Detections)
    return sorted(
        (tuple(box), class_id)
        for box, class_id in zip(result.found.boxes.tolist(), result.found.class_ids.tolist(), strict=True)
    )


def test_detect_finds_what_was_painted(tiny: Bundle) -> None:
    with Detector(tiny) as detector:
        result = detector.detect(paint((0, 0, "red"), (5, 7, "blue")))
    assert _cells(result) == [((0, 0, 8, 8), 2), ((40, 56, 48, 64), 0)]
    assert min(result.timing.preprocess, result.timing.inference, result.timing.postprocess) > 0


def test_boxes_are_in_pixels_of_the_frame(tiny: Bundle) -> None:
    frame = np.kron(paint((1, 2, "green")), np.ones((2, 4, 1), np.uint8))
    with Detector(tiny) as detector:
        result = detector.detect(frame)
    assert _cells(result) == [((32, 32, 64, 48), 1)]


def test_an_empty_frame_has_no_detections(tiny: Bundle) -> None:
    with Detector(tiny) as detector:
        result = detector.detect(paint())
    assert isinstance(result.found, Detections)
    assert result.found.boxes.shape == (0, 4)


def test_submit_gives_each_frame_its_own_result(tiny: Bundle) -> None:
    results: dict[int, Result | QzdError] = {}
    with Detector(tiny, RunOptions(requests=4)) as detector:
        for i in range(64):
            detector.submit(paint((i % 8, i // 8, "green")), partial(results.__setitem__, i))
        assert detector.drain(timeout=30)
    assert len(results) == 64
    for i, result in results.items():
        x, y = i % 8 * 8, i // 8 * 8
        assert _cells(result) == [((x, y, x + 8, y + 8), 1)]


def test_thresholds_replace_those_of_the_bundle(tiny: Bundle) -> None:
    frame = paint((3, 3, "red")) // 2  # scores of one half
    with Detector(tiny, thresholds=Thresholds(confidence=0.6)) as detector:
        assert _cells(detector.detect(frame)) == []
    with Detector(tiny, thresholds=Thresholds(confidence=0.4)) as detector:
        assert len(_cells(detector.detect(frame))) == 1


def test_self_test_passes_where_the_golden_boxes_are_found(tiny: Bundle) -> None:
    # golden frames are judged with the bundle's thresholds, not with those that it is served with
    with Detector(tiny, thresholds=Thresholds(confidence=1.0)) as detector:
        assert detector.self_test() == []


def test_self_test_says_what_differs(tmp_path: Path) -> None:
    wrong = bundles.read(write_tiny_bundle(tmp_path / "wrong", golden_label="blue"))
    with Detector(wrong) as detector:
        problems = detector.self_test()
    assert [p.partition(":")[0] for p in problems] == ["golden frame 0", "golden frame 0"]


def test_drain_waits_for_what_is_under_way(tiny: Bundle) -> None:
    started, let_go = threading.Event(), threading.Event()

    def slow(_: Result | QzdError) -> None:
        started.set()
        let_go.wait(10)

    with Detector(tiny) as detector:
        detector.submit(paint(), slow)
        assert started.wait(10)
        assert not detector.drain(timeout=0.02)
        let_go.set()
        assert detector.drain(timeout=10)


def test_close_from_many_threads_closes_once(tiny: Bundle) -> None:
    detector = Detector(tiny)
    with ThreadPoolExecutor(8) as pool:
        for closing in [pool.submit(detector.close) for _ in range(8)]:
            closing.result(20)
    detector.close()


@pytest.mark.parametrize("after", [False, True], ids=["before it runs", "while it runs"])
def test_an_interrupt_as_a_frame_is_started_does_not_hang(
    tiny: Bundle, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    def interrupted(slot: Slot, _done: object) -> None:
        if after:
            slot._request.start_async()
        raise KeyboardInterrupt

    def work() -> None:
        with contextlib.suppress(KeyboardInterrupt), Detector(tiny) as detector:
            detector.submit(paint(), print)
            monkeypatch.setattr(detector._runner, "start", interrupted)
            detector.submit(paint(), print)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_a_request_is_idle_again_only_when_its_result_is_handed_on(tiny: Bundle) -> None:
    idle: queue.Queue[object] = queue.Queue()
    with Detector(tiny, RunOptions(requests=1)) as detector:
        detector.submit(paint(), lambda _: idle.put(detector.acquire(timeout=0.02)))
        assert idle.get(timeout=10) is None
        assert detector.acquire(timeout=10) is not None


def test_a_frame_that_is_no_picture_does_not_cost_a_request(tiny: Bundle) -> None:
    with Detector(tiny, RunOptions(requests=1)) as detector:
        slot = detector.acquire(timeout=1)
        assert slot is not None
        with pytest.raises(DataError):
            detector.start(slot, np.zeros(5, np.uint8), lambda _: None)
        assert detector.acquire(timeout=1) is slot


def test_a_tensor_that_cannot_be_decoded_is_an_error_not_an_empty_result(tiny: Bundle) -> None:
    ended: queue.Queue[Result | QzdError] = queue.Queue()
    with Detector(tiny) as detector:
        detector._decoder._shapes = [(1, 2, 3)]
        detector.submit(paint(), ended.put)
        assert isinstance(ended.get(timeout=10), ModelError)


def test_a_model_of_another_input_size_is_refused(tiny: Bundle) -> None:
    manifest = msgspec.structs.replace(tiny.manifest, input=Input(width=32, height=64, resize="stretch"))
    with pytest.raises(ModelError, match=r"64x64(.|\n)*32x64"):
        Detector(Bundle(tiny.path, manifest, tiny.digest, None))


@pytest.mark.parametrize("harm", ["overwritten", "truncated", "removed"])
def test_a_model_runs_on_when_its_files_are_changed(tmp_path: Path, harm: str) -> None:
    path = write_tiny_bundle(tmp_path / "b")
    with Detector(bundles.read(path)) as detector:
        before = detector.detect(paint((1, 2, "red"))).found
        for file in [path / "model.bin", path / "model.xml", *(path / "golden").iterdir()]:
            if harm == "removed":
                file.unlink()
            else:
                os.truncate(file, 0)
                if harm == "overwritten":
                    file.write_bytes(bytes(1 << 16))
        after = detector.detect(paint((1, 2, "red"))).found
        assert before.scores.tolist() == after.scores.tolist()
        assert detector.self_test() == []
