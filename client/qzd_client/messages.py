"""Every published message and topic, as frozen structs: what daemon and subscribers agree on.

A message is two frames, `[topic, JSON]`. Every topic ends in `/`, because ZeroMQ matches prefixes: a
subscription to `.../cam1/` must not receive `.../cam10/`. Readers ignore unknown fields.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

__all__ = [
    "DETECTIONS",
    "HEARTBEAT",
    "MAX_MESSAGE_BYTES",
    "MODEL",
    "PREFIX",
    "STREAM",
    "BeatState",
    "Box",
    "ClassScore",
    "Detections",
    "Heartbeat",
    "Message",
    "ModelInfo",
    "ModelState",
    "ModelStateName",
    "NoResultOutcome",
    "Outcome",
    "SourceStateName",
    "StageTimes",
    "StreamState",
    "StreamStateName",
    "UnknownMessage",
    "UsedThresholds",
    "decode",
    "decode_any",
    "detections_topic",
    "encode",
    "model_topic",
    "stream_topic",
]

MAX_MESSAGE_BYTES = 16 * 2**20
"""The largest message that the daemon publishes and that a client accepts."""

PREFIX = "qzd/1/"
DETECTIONS = f"{PREFIX}detections/"
STREAM = f"{PREFIX}stream/"
MODEL = f"{PREFIX}model/"
HEARTBEAT = f"{PREFIX}heartbeat/"

NoResultOutcome = Literal["skipped", "stale", "error"]
Outcome = Literal["ok", "damaged", NoResultOutcome]
BeatState = Literal["serving", "stopping"]
SourceStateName = Literal["connecting", "connected", "running", "reconnecting", "failed"]
StreamStateName = Literal[SourceStateName, "ended", "removed"]
ModelStateName = Literal["loaded", "swapped", "rolled_back", "failed", "removed"]


def detections_topic(stream: str, model: str) -> str:
    """Return the topic of what a model finds in the frames of a stream.

    Examples
    --------
    >>> detections_topic("gate", "ssd")
    'qzd/1/detections/gate/ssd/'
    """
    return f"{DETECTIONS}{stream}/{model}/"


def stream_topic(stream: str) -> str:
    """Return the topic of the state of a stream's source."""
    return f"{STREAM}{stream}/"


def model_topic(model: str) -> str:
    """Return the topic of the state of a model."""
    return f"{MODEL}{model}/"


class Box(Struct, frozen=True):
    """One box."""

    class_id: int
    label: str
    score: float
    """0..1, to five decimals."""
    box: tuple[float, float, float, float]
    """x0 y0 x1 y1 in pixels of the source frame, clipped to it, to three decimals."""


class ClassScore(Struct, frozen=True):
    """One class of a classified frame."""

    class_id: int
    label: str
    score: float


class ModelInfo(Struct, frozen=True):
    """The model that answered, exactly."""

    name: str
    """The key of the model in the daemon's configuration."""
    version: str
    digest: str
    """`sha256:` and the sha256 of the bundle's bundle.toml."""
    precision: str
    """Of the weights: fp32, fp16, int8 or int8-weights."""
    device: str
    """The devices that execute it, separated by commas."""
    inference_precision: str = ""
    """What the device computes in outside the quantized layers: f32, f16 or bf16."""
    signer: str = ""
    """The name of the key that has signed the bundle; empty if the daemon asks for no signatures."""


class StageTimes(Struct, frozen=True):
    """Milliseconds that a frame spent in each stage."""

    queue: float
    preprocess: float
    inference: float
    postprocess: float


class UsedThresholds(Struct, frozen=True):
    """The thresholds that filtered the boxes."""

    confidence: float
    """Of every label that is not in `confidences`."""
    iou: float
    confidences: dict[str, float] | msgspec.UnsetType = msgspec.UNSET
    """Of single labels; absent if there are none."""
    labels: list[str] | msgspec.UnsetType = msgspec.UNSET
    """The only labels that are listed; absent if all are."""


class Message(Struct, frozen=True, kw_only=True, tag_field="schema"):
    """The fields that every message has. The publisher fills `epoch`, `seq` and `published_ns`."""

    epoch: str = ""
    """A uuid that changes each time the daemon starts."""
    seq: int = 0
    """Counts the messages of one topic in one epoch, from 1 without a hole."""
    published_ns: int = 0
    """Wall clock, nanoseconds since 1970."""


class Detections(Message, frozen=True, kw_only=True, tag="qzd.detections/1"):
    """What became of one frame. There is one for every frame that reached the model or failed before it."""

    stream: str
    frame: int
    """Index of the frame since the stream started, from 0; counts frames that cannot be decoded too."""
    captured_ns: int
    """Wall clock at which the frame was read, or captured if it was sent; nanoseconds since 1970."""
    pts_s: float | None = None
    """The frame's own time in its video, in seconds."""
    file: str | None = None
    """The file's name, if the source is a directory."""
    width: int
    """Of the source frame, in pixels; 0 if it could not be decoded."""
    height: int
    outcome: Outcome
    """Only `ok` says that what is listed is what was there. `damaged`: it was found in a picture that is not
    whole, and may be wrong or incomplete. With any other, nothing is known."""
    reason: str | None = None
    """Why the outcome is not `ok`."""
    dropped_before: int = 0
    """Frames since the stream's previous message that the model did not look at."""
    model: ModelInfo
    timing_ms: StageTimes
    thresholds: UsedThresholds
    truncated: bool = False
    """More boxes passed the thresholds than may be listed."""
    detections: list[Box] | msgspec.UnsetType = msgspec.UNSET
    """Best score first; absent unless the outcome is `ok` or `damaged`, and if the model classifies."""
    classes: list[ClassScore] | msgspec.UnsetType = msgspec.UNSET
    """Best score first; absent unless the outcome is `ok` or `damaged`, and if the model detects."""


class StreamState(Message, frozen=True, kw_only=True, tag="qzd.stream/1"):
    """The state of a stream's source has changed."""

    stream: str
    state: StreamStateName
    """`connected`: the source answers; `running`: pictures come."""
    reason: str | None = None
    frames: int = 0
    """Frames delivered so far, whatever became of them."""
    damaged: int = 0
    """Of these, pictures that were not whole."""
    undecodable: int = 0
    """Of these, frames without a picture."""
    absent: int = 0
    """Frames that never came: gaps in timestamps that were even before."""
    whole_ns: int | None = None
    """Wall clock at which the last whole picture was captured."""


class ModelState(Message, frozen=True, kw_only=True, tag="qzd.model/1"):
    """The state of a model has changed."""

    model: ModelInfo
    state: ModelStateName
    reason: str | None = None


class Heartbeat(Message, frozen=True, kw_only=True, tag="qzd.heartbeat/1"):
    """Sent at a fixed interval, and once more as the last message of an epoch."""

    state: BeatState
    """`stopping`: this is the last message of the epoch."""
    interval_ms: int
    topics: dict[str, int]
    """The last seq of every other topic, so that a subscriber sees that it lost a tail."""


class UnknownMessage(Struct, frozen=True):
    """A message of a kind that only newer versions know. Its seq counts like any other."""

    schema: str
    epoch: str
    seq: int


_decoder: msgspec.json.Decoder[Detections | StreamState | ModelState | Heartbeat] = msgspec.json.Decoder(
    Detections | StreamState | ModelState | Heartbeat
)
_encoder = msgspec.json.Encoder()
KINDS = {kind.__struct_config__.tag for kind in (Detections, StreamState, ModelState, Heartbeat)}


def encode(message: Message) -> bytes:
    """Return the JSON of a message.

    Examples
    --------
    >>> decode(encode(StreamState(stream="gate", state="running"))).state
    'running'
    """
    return _encoder.encode(message)


def decode(payload: bytes) -> Detections | StreamState | ModelState | Heartbeat:
    """Read a message's JSON.

    Raises
    ------
    msgspec.DecodeError
        Not JSON, or not a message of this protocol's version.
    """
    return _decoder.decode(payload)


def decode_any(payload: bytes) -> Detections | StreamState | ModelState | Heartbeat | UnknownMessage:
    """Read a message's JSON as `decode` does; return an `UnknownMessage` if its `schema` is unknown.

    Examples
    --------
    >>> decode_any(b'{"schema": "qzd.weather/1", "epoch": "e", "seq": 1}')
    UnknownMessage(schema='qzd.weather/1', epoch='e', seq=1)
    """
    try:
        return _decoder.decode(payload)
    except msgspec.ValidationError:
        other = msgspec.json.decode(payload, type=UnknownMessage)
        if other.schema in KINDS:
            raise
        return other
