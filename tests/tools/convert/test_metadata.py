"""Metadata in models, as Model API, Ultralytics and Model Optimizer write it."""

from __future__ import annotations

from collections.abc import Mapping

import openvino as ov
import pytest

from qzd_ext.errors import ModelError, UsageError
from qzd_ext.manifest import Labels
from qzd_tools.convert.facts import Facts, known, wanted
from qzd_tools.convert.labels import named
from qzd_tools.convert.metadata import read_metadata, read_size
from support import detector_graphs


def with_info(**sections: Mapping[str, object]) -> ov.Model:
    model = detector_graphs.classifier()
    for section, table in sections.items():
        for key, value in table.items():
            model.set_rt_info(value, [section, key])
    return model


def test_read_metadata_knows_nothing_when_there_is_none() -> None:
    assert Facts() == read_metadata(detector_graphs.classifier(), "model", 64)


def test_read_metadata_takes_model_info_as_model_api_writes_it() -> None:
    info = {
        "model_type": "ssd",
        "labels": "traffic_light car",
        "resize_type": "fit_to_window_letterbox",
        "pad_value": "114",
        "mean_values": "123.675 116.28 103.53",
        "scale_values": "58.395 57.12 57.375",
        "reverse_input_channels": "True",
        "confidence_threshold": "0.35",
        "iou_threshold": "0.6",
    }
    facts = read_metadata(with_info(model_info=info), "model", 64)
    assert facts.head == "detection_output"
    assert facts.labels == Labels(names=("traffic light", "car"))
    assert (facts.resize, facts.anchor, facts.pad) == ("letterbox", "center", 114)
    assert facts.mean == (123.675, 116.28, 103.53)
    assert facts.scale == (58.395, 57.12, 57.375)
    assert (facts.color, facts.confidence, facts.iou) == ("rgb", 0.35, 0.6)
    assert set(facts.why.values()) == {"rt_info model_info"}


def test_read_metadata_takes_classifiers_as_model_api_describes_them() -> None:
    assert read_metadata(with_info(model_info={"multilabel": "True"}), "model", 64).multilabel
    with pytest.raises(ModelError, match="hierarchy"):
        read_metadata(with_info(model_info={"hierarchical": "True"}), "model", 64)


def test_read_metadata_takes_lists_as_openvino_writes_them() -> None:
    info = {"scale_values": [255.0], "labels": ["person", "car"], "iou_threshold": 0.7}
    facts = read_metadata(with_info(model_info=info), "model", 64)
    assert (facts.mean, facts.scale, facts.iou) == ((0.0,), (255.0,), 0.7)
    assert facts.labels == Labels(names=("person", "car"))


@pytest.mark.parametrize(
    ("resize", "expected"),
    [
        ("standard", ("stretch", None, None)),
        ("fit_to_window", ("letterbox", "corner", None)),
        ("fit_to_window_letterbox", ("letterbox", "center", None)),
        ("crop", ("crop", None, 64)),
        ("somehow", (None, None, None)),
    ],
)
def test_read_metadata_knows_the_resize_types_of_model_api(
    resize: str, expected: tuple[str | None, str | None, int | None]
) -> None:
    facts = read_metadata(with_info(model_info={"resize_type": resize}), "model", 64)
    assert expected == (facts.resize, facts.anchor, facts.short_side)


def test_read_metadata_leaves_the_head_open_when_model_type_is_only_yolo() -> None:
    facts = read_metadata(with_info(model_info={"model_type": "YOLO", "scale_values": "255.0"}), "model", 64)
    assert facts.head is None
    assert facts.mean == (0.0,)


def test_read_metadata_takes_pixels_as_they_are_when_processing_is_embedded() -> None:
    info = {"embedded_processing": "True", "reverse_input_channels": "True", "scale_values": "255.0"}
    facts = read_metadata(with_info(model_info=info), "model", 64)
    assert (facts.color, facts.mean, facts.scale) == ("bgr", (0.0,), (1.0,))


def test_read_metadata_takes_ultralytics_properties() -> None:
    properties = {"stride": "32", "task": "detect", "names": "{0: 'bolt', 1: 'nut'}", "imgsz": "[320, 640]"}
    model = with_info(framework=properties)
    facts = read_metadata(model, "model", 64)
    assert facts.labels == Labels(names=("bolt", "nut"))
    assert (facts.color, facts.scale, facts.resize) == ("rgb", (255.0,), "letterbox")
    assert read_size(model) == (320, 640)


@pytest.mark.parametrize(
    ("names", "labels"),
    [("['bolt', 'nut']", ("bolt", "nut")), ("{0: 'bolt', 'x': 'nut'}", None), ("-" * 99999 + "1", None)],
    ids=["a list, as YOLOv5 wrote it", "mixed keys", "too deep"],
)
def test_read_metadata_takes_only_the_names_of_a_classifier_that_gives_no_task(
    names: str, labels: tuple[str, ...] | None
) -> None:
    facts = read_metadata(with_info(framework={"stride": "32", "names": names}), "model", 64)
    assert labels == (facts.labels and facts.labels.names)
    assert (facts.color, facts.scale, facts.resize) == (None, None, None)


def test_read_metadata_leaves_out_numbers_that_are_not_finite() -> None:
    model = with_info(framework={"imgsz": "1e999"}, model_info={"pad_value": "1e999"})
    assert (read_size(model), read_metadata(model, "model", 64)) == (None, Facts())


def test_read_metadata_takes_ultralytics_classifiers_for_what_they_are() -> None:
    properties = {"stride": "1", "task": "classify", "names": "{0: 'bolt', 1: 'nut'}"}
    facts = read_metadata(with_info(framework=properties), "model", 64)
    assert (facts.head, facts.resize) == ("classification", "crop")


def test_read_metadata_refuses_a_task_that_qzd_does_not_do() -> None:
    properties = {"stride": "32", "task": "segment", "names": "{0: 'bolt'}"}
    with pytest.raises(ModelError, match="segment"):
        read_metadata(with_info(framework=properties), "model", 64)


def test_read_metadata_ignores_names_that_are_no_dictionary() -> None:
    facts = read_metadata(with_info(framework={"stride": "32", "names": "__import__('os')"}), "model", 64)
    assert facts.labels is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RGB (x-127.5)/127.5 NCHW", ("rgb", (127.5,), (127.5,))),
        ("BGR", ("bgr", None, None)),
        ("anything", (None, None, None)),
        ("RGB (x-1.2.3)/4", ("rgb", None, None)),
    ],
)
def test_read_metadata_understands_a_described_input(
    text: str, expected: tuple[str | None, tuple[float, ...] | None, tuple[float, ...] | None]
) -> None:
    facts = read_metadata(with_info(framework={"input": text}), "model", 64)
    assert expected == (facts.color, facts.mean, facts.scale)


def test_read_metadata_takes_what_model_optimizer_folded_in() -> None:
    parameters = {"reverse_input_channels": "True", "scale_values": "image[255.0]"}
    facts = read_metadata(with_info(conversion_parameters=parameters), "model", 64)
    assert (facts.color, facts.mean, facts.scale) == ("bgr", (0.0,), (1.0,))


def test_read_metadata_takes_nothing_for_folded_in_that_model_optimizer_was_not_given() -> None:
    parameters = {"reverse_input_channels": "False", "mean_values": "()", "scale_values": "()"}
    assert Facts() == read_metadata(with_info(conversion_parameters=parameters), "model", 64)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("person-detection-0200", ("person",)),
        ("face-detection-retail-0004", ("face",)),
        ("person-detection-mine", None),
    ],
)
def test_read_metadata_takes_the_class_from_intels_names(name: str, labels: tuple[str, ...] | None) -> None:
    found = read_metadata(detector_graphs.classifier(), name, 64).labels
    assert labels == (found and found.names)


def test_facts_keep_the_first_that_knows_and_its_reason() -> None:
    first, second = known("flag", color="rgb"), known("metadata", color="bgr", scale=(255.0,))
    both = first.over(second)
    assert (both.color, both.scale) == ("rgb", (255.0,))
    assert dict(both.why) == {"color": "flag", "scale": "metadata"}


def test_wanted_names_the_flags_of_what_is_missing() -> None:
    with pytest.raises(UsageError) as caught:
        wanted(known("flag", color="rgb", labels=named("voc")), "color", "mean", "labels", "resize")
    assert "its mean or its resize" in str(caught.value)
    assert "--mean" in str(caught.value)
    assert "--color" not in str(caught.value)
