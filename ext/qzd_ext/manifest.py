"""The schema of `bundle.toml`: everything needed to run a model and to judge it.

Frozen structs, unknown keys forbidden; the types, defaults and docstrings here are its documentation. The
heads are in `head_types`, files and hashes in `bundle`.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from qzd_ext.errors import BundleError
from qzd_ext.head_types import (
    BoxesScores,
    Classification,
    DetectionOutput,
    Detr,
    Dfl,
    Distances,
    EndToEnd,
    Head,
    Positive,
    Side,
    Ssd,
    Task,
    YoloAnchor,
    YoloV5,
    YoloV8,
    YoloV8Raw,
    Yolox,
    head_problems,
)

__all__ = [
    "MAX_MANIFEST_BYTES",
    "SCHEMA",
    "Accuracy",
    "BoxesScores",
    "Classification",
    "DetectionOutput",
    "Detr",
    "Dfl",
    "Distances",
    "EndToEnd",
    "Head",
    "InferencePrecision",
    "Input",
    "Labels",
    "Manifest",
    "Provenance",
    "Ssd",
    "Thresholds",
    "YoloAnchor",
    "YoloV5",
    "YoloV8",
    "YoloV8Raw",
    "Yolox",
    "decode_manifest",
]

SCHEMA = "qzd.bundle/1"
InferencePrecision = Literal["f32", "f16", "bf16"]
"""What a device computes in where the graph is not quantized, as OpenVINO names it."""
MAX_MANIFEST_BYTES = 1 << 19  # ten thousand labels have half of it
MAX_DETECTIONS = 10_000  # of a frame: its message stays below a megabyte
MAX_KEY_PARTS = 8  # of a dotted key
MAX_MESSAGE = 500  # characters of a parser's error that are shown

Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$(?!\n)")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class _Table(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=False, kw_only=True):
    """A table of bundle.toml."""


class Input(_Table, frozen=True, kw_only=True):
    """How a frame becomes the model's input, which is always u8 NHWC BGR `[1, height, width, 3]`."""

    width: Side
    height: Side
    resize: Literal["stretch", "letterbox", "crop"]
    """stretch: both sides scaled apart. letterbox: aspect kept, rest padded.
    crop: short side scaled to `short_side`, then the centre cut out."""
    anchor: Literal["center", "corner"] = "center"
    """Where a letterboxed frame lies; `corner` is the top left."""
    pad: Annotated[int, Meta(ge=0, le=255)] = 114
    """The grey value around a letterboxed frame."""
    short_side: Side = 256
    """Of the scaled frame before it is cropped, in pixels; at least the larger of width and height."""


class Labels(_Table, frozen=True, kw_only=True):
    """What the classes are called, and which ids a dataset gives them."""

    names: tuple[str, ...]
    """By class id. An empty name marks an index that the model has and its dataset does not use."""
    category_ids: tuple[int, ...] = ()
    """By class id, the category id in the dataset that the model was trained on; may be empty."""

    def name(self, class_id: int) -> str:
        """Return the label of a class id; `class 12` if it has none."""
        return self.names[class_id] or f"class {class_id}"


class Thresholds(_Table, frozen=True, kw_only=True):
    """What is published. A score or an IoU equal to its threshold: the box is kept."""

    confidence: Fraction = 0.25
    iou: Fraction = 0.45
    """A box is suppressed when its overlap with a better one of its class is above this."""
    nms: Literal["iou", "diou"] = "iou"
    agnostic: bool = False
    """Boxes suppress those of other classes too."""
    max_candidates: Positive = 30000
    """The best that enter NMS."""
    max_detections: Annotated[int, Meta(ge=1, le=MAX_DETECTIONS)] = 300
    """The best that leave it."""
    multi_label: bool = False
    """Every class above the threshold makes a candidate (validation), not only the best one (serving)."""


class Accuracy(_Table, frozen=True, kw_only=True):
    """One measured dataset."""

    dataset: str
    """sha256 of the annotations and images that were used."""
    images: int
    device: str
    metrics: dict[str, float]
    thresholds: Thresholds
    baseline: dict[str, float] = {}
    """The same metrics of the model that this one was quantized from."""
    change: dict[str, tuple[float, float]] = {}
    """95 % interval of a metric's difference from the baseline's, by a bootstrap over the images."""
    agreement: dict[str, float] = {}
    """`value` and standard `error` of the agreement with the baseline's own boxes or classes, 0..1."""
    inference_precision: str = ""
    """What the device computed in; empty in bundles that were made before this was recorded."""


class Provenance(_Table, frozen=True, kw_only=True):
    """Where the model comes from and what was done to it."""

    source: dict[str, Sha256] = {}
    """sha256 by file name of what was converted."""
    tools: dict[str, str] = {}
    """Version by name of what made the bundle."""
    proof: dict[str, str | int | float | bool | list[str]] = {}
    """The runtime of the source that the graph was compared with, on how many pictures, and the largest
    differences; `unproven` says why there is no proof."""
    parent: str = ""
    """Digest of the bundle that this one was quantized from."""
    quantization: dict[str, str | int | float | bool | list[str]] = {}
    target_isa: str = ""
    """The instruction set that an INT8 model was made for; `any` is safe everywhere."""
    calibration_digest: str = ""
    """sha256 over the sorted hashes of the calibration images' contents."""
    calibration_images: int = 0
    notes: tuple[str, ...] = ()
    """What convert inferred, and from what."""


class Manifest(_Table, frozen=True, kw_only=True):
    """bundle.toml."""

    schema: Literal["qzd.bundle/1"] = "qzd.bundle/1"
    name: Name
    version: Name = "1"
    task: Task
    precision: Literal["fp32", "fp16", "int8", "int8-weights"]
    """Of the weights."""
    inference_precision: InferencePrecision = "f32"
    """What the model was validated in and is served in, where the configuration names no other."""
    input: Input
    head: Head
    labels: Labels
    thresholds: Thresholds = Thresholds()
    provenance: Provenance = Provenance()
    accuracy: tuple[Accuracy, ...] = ()
    files: dict[str, Sha256] = {}
    """sha256 by relative path of every other file of the bundle."""

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise ValueError(problem)


def _problems(m: Manifest) -> list[str]:
    """Say what a type cannot, in sentences; empty if the manifest is sound."""
    found = []
    if m.task != m.head.task:
        found.append(f"task is {m.task!r} but head {type(m.head).__name__} is for {m.head.task!r}")
    if not m.labels.names:
        found.append("labels.names is empty: a model has at least one class")
    ids = m.labels.category_ids
    if ids and len(ids) != len(m.labels.names):
        found.append(f"labels: {len(m.labels.names)} names but {len(ids)} category_ids")
    if len(set(ids)) != len(ids):
        found.append("labels.category_ids holds an id twice")
    if m.input.resize == "crop" and m.input.short_side < max(m.input.width, m.input.height):
        found.append(f"input.short_side {m.input.short_side} is smaller than what is cropped from it")
    found += head_problems(m.head)
    for path in m.files:
        if path.startswith("/") or ".." in path.split("/") or not re.fullmatch(r"[\w.\-/]+", path):
            found.append(f"files: {path!r} is not a plain path inside the bundle")
    return found


def decode_manifest(text: bytes, where: str) -> Manifest:
    """Read bundle.toml.

    Parameters
    ----------
    text : bytes
        The file's content.
    where : str
        Its path, for messages.

    Raises
    ------
    BundleError
        Not TOML, an unknown key, a wrong type or a contradiction; the message names the key.
    """
    fix = "make the bundle again with `qzd-tools convert`, or correct the key that is named"
    if problem := _too_costly(text):
        raise BundleError(f"{where}: {problem}", wanted=f"a manifest of schema {SCHEMA}", fix=fix)
    try:
        return msgspec.toml.decode(text, type=Manifest)
    except (ValueError, RecursionError) as error:  # RecursionError: arrays nested deeper than Python reads
        found = str(error)[:MAX_MESSAGE]
        raise BundleError(f"{where}: {found}", wanted=f"a manifest of schema {SCHEMA}", fix=fix) from error


_STRING_OR_COMMENT = re.compile(
    rb'''"""(?:\\.|[^\\])*?"""|\'{3}.*?\'{3}|"(?:\\.|[^"\\\n])*+"|'[^'\n]*+'|\#[^\n]*''', re.DOTALL
)
_DEEP_KEY = re.compile(rb"(?:[\w-]++[ \t]*+\.[ \t]*+){%d}" % MAX_KEY_PARTS)


def _too_costly(text: bytes) -> str | None:
    """Say why a manifest is not parsed: tomllib's memory grows with the square of a dotted key's parts.

    Within both limits, the worst text that we know takes 1.2 s and 70 MB.
    """
    if len(text) > MAX_MANIFEST_BYTES:
        return f"it has {len(text)} bytes, more than {MAX_MANIFEST_BYTES}"
    if _DEEP_KEY.search(_STRING_OR_COMMENT.sub(b"_", text)):
        return f"a dotted key has more than {MAX_KEY_PARTS} parts"
    return None
