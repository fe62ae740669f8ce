"""What a bundle's [head] may say, and that bundles of earlier versions still load."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from qzd_ext import manifest as m
from qzd_ext.manifest import decode_manifest
from support.head_cases import manifest_of

ONE: dict[str, Any] = {"anchors": ((1.0, 1.0),), "masks": ((0,),)}
OLD = [
    ('kind = "detection_output"\nfirst_label = 1', m.DetectionOutput(first_label=1)),
    ('kind = "ssd"\nscales = [10.0, 10.0, 5.0, 5.0]\nactivation = "softmax"\nbackground = true',
     m.Ssd(activation="softmax")),
    ('kind = "yolo_anchor"\nanchors = [[1.0, 2.0]]\nmasks = [[0]]\nscale_xy = []\nlayout = "nhwc"',
     m.YoloAnchor(anchors=((1.0, 2.0),), masks=((0,),), layout="nhwc")),
    ('kind = "yolo_v5"\nnormalized = true', m.YoloV5(normalized=True)),
    ('kind = "yolox"\nstrides = [8, 16]', m.Yolox(strides=(8, 16))),
    ('kind = "yolo_v8"\nlayout = "channels_last"\nnormalized = false', m.YoloV8(layout="channels_last")),
    ('kind = "yolo_v8_raw"\nstrides = [8]\nbins = 16\ntensors = "split"',
     m.YoloV8Raw(strides=(8,), tensors="split")),
    ('kind = "end_to_end"\nnormalized = true', m.EndToEnd(normalized=True)),
]  # fmt: skip
"""As bundles of version 1 have been written since the first one."""


@pytest.mark.parametrize(("text", "head"), OLD, ids=[text.split('"')[1] for text, _ in OLD])
def test_head_of_an_earlier_bundle_still_means_the_same(text: str, head: m.Head) -> None:
    document = (
        f'schema = "qzd.bundle/1"\nname = "old"\ntask = "detection"\nprecision = "fp32"\n'
        f'[input]\nwidth = 64\nheight = 64\nresize = "stretch"\n[labels]\nnames = ["a"]\n[head]\n{text}\n'
    )
    assert decode_manifest(document.encode(), "bundle.toml").head == head


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        (m.Dfl(strides=()), "head.strides is empty"),
        (m.Distances(strides=()), "head.strides is empty"),
        (m.BoxesScores(activation="softmax", scores_layout="channels_first"), "needs head.scores_layout"),
        (m.YoloAnchor(**ONE, scale_xy=(1.1,), decode="v5"), "says nothing about"),
        (m.Ssd(scales=(1.0, 1.0, 0.0, 1.0)), "head.scales"),
    ],
)
def test_head_is_refused_when_it_contradicts_itself(head: m.Head, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        manifest_of(head, 3)


def test_head_is_written_and_read_as_toml() -> None:
    heads: list[m.Head] = [
        m.EndToEnd(columns=("-", "class", "score", "xc", "yc", "w", "h")),
        m.Dfl(tensors="classes_boxes"),
        m.Distances(boxes_per_cell=2),
        m.Detr(no_object=True),
        m.BoxesScores(boxes="center"),
    ]
    for head in heads:
        manifest = manifest_of(head, 3)
        text = msgspec.toml.encode(manifest)
        assert decode_manifest(text, "bundle.toml") == manifest
