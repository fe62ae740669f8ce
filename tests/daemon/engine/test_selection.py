"""Which labels are published, from which score on: the bundle, then the model, then the stream choose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from qzd_client.messages import Detections
from qzd_client.subscriber import Client
from qzd_daemon.config.schema import ModelConfig, StreamConfig
from qzd_daemon.engine.selection import select
from qzd_ext.errors import ConfigError
from qzd_ext.manifest import Classification, Input, Labels, Manifest, Thresholds, YoloV8
from support.processes import Daemon
from support.tiny_model import paint
from support.videos import write_clip

INF = float("inf")
MANIFEST = Manifest(
    name="m", task="detection", precision="int8", head=YoloV8(),
    input=Input(width=64, height=64, resize="stretch"),
    labels=Labels(names=("person", "car", "dog")), thresholds=Thresholds(confidence=0.25, iou=0.45),
)  # fmt: skip


def chosen(model: dict[str, Any], stream: dict[str, Any] | None = None) -> Any:
    config = None if stream is None else StreamConfig(source="x", model="m", **stream)
    return select("m", MANIFEST, ModelConfig(bundle="b", **model), config)


@pytest.mark.parametrize(
    ("model", "stream", "floors", "lowest"),
    [
        ({}, None, None, 0.25),
        ({"confidence": 0.4}, {}, None, 0.4),
        ({"confidence": 0.4}, {"confidence": 0.7}, None, 0.7),
        ({"confidence": {"person": 0.6, "default": 0.4}}, None, [0.6, 0.4, 0.4], 0.4),
        ({"confidence": {"person": 0.6}}, None, [0.6, 0.25, 0.25], 0.25),
        ({"labels": ("person", "dog")}, None, [0.25, INF, 0.25], 0.25),
        ({"labels": ("person",), "confidence": {"person": 0.6}}, {}, [0.6, INF, INF], 0.6),
        ({"labels": ("person",)}, {"labels": ("car",)}, [INF, 0.25, INF], 0.25),
        ({"confidence": {"person": 0.6}}, {"confidence": 0.3}, None, 0.3),
        ({"confidence": 0.3}, {"confidence": {"car": 0.9}}, [0.3, 0.9, 0.3], 0.3),
        ({"confidence": {"car": 0.9}}, {"confidence": {"dog": 0.8, "default": 0.5}}, [0.5, 0.9, 0.8], 0.5),
    ],
)
def test_select_gives_the_least_score_of_each_label(
    model: dict[str, Any], stream: dict[str, Any] | None, floors: list[float] | None, lowest: float
) -> None:
    selection = chosen(model, stream)
    if floors is None:
        assert selection.floors is None
    else:
        assert selection.floors == pytest.approx(floors)
    assert selection.thresholds.confidence == pytest.approx(lowest)


def test_select_reports_what_is_used() -> None:
    plain, by_label = chosen({"confidence": 0.4}), chosen({"labels": ["car"], "confidence": {"car": 0.6}})
    assert msgspec.to_builtins(plain.used) == {"confidence": 0.4, "iou": 0.45}
    assert msgspec.to_builtins(by_label.used) == {
        "confidence": 0.25, "iou": 0.45, "confidences": {"car": 0.6}, "labels": ["car"],
    }  # fmt: skip


@pytest.mark.parametrize("given", [{"labels": ("persom",)}, {"confidence": {"persom": 0.5}}])
def test_select_when_a_label_is_unknown_says_which_is_meant(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"no label 'persom'[\s\S]*did you mean 'person'"):
        chosen({}, given)


def test_select_when_the_model_classifies_refuses_labels() -> None:
    manifest = msgspec.structs.replace(MANIFEST, task="classification", head=Classification())
    with pytest.raises(ConfigError, match="it classifies"):
        select("m", manifest, ModelConfig(bundle="b", labels=("car",)))


CONFIG = """
[publish]
bind = ["ENDPOINT"]
wait_for_subscribers = 1
[control]
bind = ["ipc://{directory}/control"]
[models.tiny]
bundle = "{bundle}"
device = "CPU"
labels = ["red", "green"]
[streams.all]
source = "{clip}"
model = "tiny"
[streams.one]
source = "{clip}"
model = "tiny"
labels = ["green"]
[streams.sure]
source = "{clip}"
model = "tiny"
confidence = {{ red = 1.0, default = 0.5 }}
"""


def test_daemon_publishes_what_each_stream_chooses(
    daemon: Callable[..., Daemon], tiny_bundle: Path, tmp_path: Path
) -> None:
    frame = np.clip(paint((0, 0, "red"), (2, 2, "green"), (4, 4, "blue")), 0, 230)
    clip = write_clip(tmp_path / "clip.mp4", [frame])
    text = CONFIG.format(directory=tmp_path, bundle=tiny_bundle, clip=clip)
    served = daemon(text).ready()
    found: dict[str, Detections] = {}
    with Client(served.endpoint) as client:
        while len(found) < 3:
            event = client.receive(30)
            assert event is not None
            if isinstance(event, Detections):
                found[event.stream] = event
    labels = {name: sorted(box.label for box in event.detections or ()) for name, event in found.items()}
    assert labels == {"all": ["green", "red"], "one": ["green"], "sure": ["green"]}
    assert found["one"].thresholds.labels == ["green"]
    assert found["sure"].thresholds.confidences == {"red": 1.0}


def test_reload_when_a_stream_names_an_unknown_label_keeps_the_old_configuration(
    daemon: Callable[..., Daemon], tiny_bundle: Path, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [paint((0, 0, "red"))])
    text = CONFIG.format(directory=tmp_path, bundle=tiny_bundle, clip=clip)
    served = daemon(text).ready()
    served.reload(text.replace('labels = ["green"]', 'labels = ["gren"]'))
    assert "the old configuration is kept: model tiny: it has no label 'gren'" in served.log
    assert "did you mean 'green'" in served.log
