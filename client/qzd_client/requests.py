"""Requests and replies of the control, inference and ingest sockets, as frozen structs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from qzd_client import messages

__all__ = [
    "Accepted",
    "ControlReply",
    "DeviceStatus",
    "ErrorBody",
    "ErrorReply",
    "FrameHeader",
    "ImageError",
    "ImageFormat",
    "ImageHeader",
    "ModelStatus",
    "Pong",
    "Reply",
    "Request",
    "SelfTestResult",
    "SelfTestStatus",
    "Snapshot",
    "SnapshotEntry",
    "Status",
    "StreamRates",
    "StreamStatus",
    "WhenBehind",
]

Id = int | Annotated[str, Meta(max_length=200)]
Name = Annotated[str, Meta(max_length=200)]

ImageFormat = Literal["jpeg", "png", "bgr"]
"""A JPEG or PNG file, or pixels: rows from the top, from the left, one byte each for blue, green and red."""

WhenBehind = Literal["drop", "wait"]
"""What a stream does when its models are behind: drop the oldest frame, or wait."""


class Request(Struct, frozen=True, kw_only=True, tag_field="schema", tag="qzd.control/1"):
    """One call on the control socket."""

    id: Id = 0
    """Returned in the reply."""
    op: Name
    """ping, status, streams, models, devices, snapshot, self_test, load, swap, rollback, unload or reload."""
    model: Name | None = None
    """The key of the model: for load, swap, rollback, unload; self_test runs all models without it."""
    version: Name | None = None
    """For swap: the name of the bundle's directory below the model's `bundle`."""
    bundle: Annotated[str, Meta(max_length=4096)] | None = None
    """For load: the bundle's path on the daemon's machine."""
    device: Name | None = None
    """For load: the device to run it on."""


class ErrorBody(Struct, frozen=True):
    """Why a request was not done."""

    code: str
    """For programs: bad_request, unknown_op, unknown_model, unknown_stream, busy, timeout, too_large,
    not_an_image, stopping, internal, or the kind of error as the daemon's exit codes sort them, such as
    bundle, device, gate, usage."""
    message: str
    """For people: what was found, what was expected, what to do."""


class Reply(Struct, frozen=True):
    """The reply to a call that was done."""

    id: Id
    ok: Literal[True]
    result: Any
    """The result of the op."""


class ErrorReply(Struct, frozen=True):
    """The reply to a call that was not done."""

    id: Id | None
    """null if no id could be read."""
    ok: Literal[False]
    error: ErrorBody


class ControlReply(Struct, frozen=True):
    """A `Reply` or an `ErrorReply` as a client reads it: the result is decoded when its type is known."""

    id: Id | None
    ok: bool
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: ErrorBody | None = None


class Pong(Struct, frozen=True):
    """Result of ping."""

    version: str
    epoch: str
    """The uuid of this run, as in every message."""


class StreamRates(Struct, frozen=True, kw_only=True):
    """How a stream did in the last 10 seconds."""

    fps: float
    """Frames per second that were answered, whatever their outcome."""
    latency_p50_ms: float | None
    """From the capture of a frame until its message was sent; null if no frame was `ok`."""
    latency_p99_ms: float | None
    dropped: float
    """Share of the frames that no model looked at, 0..1; `max_fps` drops them on purpose."""
    last_frame_ns: int | None
    """When the last answered frame was captured: wall clock, nanoseconds since 1970."""


class StreamStatus(Struct, frozen=True, kw_only=True):
    """A stream, in the results of streams and status."""

    name: str
    source: str
    """As configured; a URL is shown without user, password and query."""
    models: list[str]
    when_behind: WhenBehind
    state: str
    """As in the stream's messages; `waiting` before it is read."""
    reason: str | None
    frames: int
    """Frames delivered so far, whatever became of them."""
    damaged: int
    """Of these, pictures that were not whole."""
    undecodable: int = 0
    """Of these, frames without a picture."""
    absent: int = 0
    """Frames that never came: gaps in timestamps that were even before."""
    whole_ns: int | None = None
    """Wall clock at which the last whole picture was captured."""
    rates: StreamRates | None = None
    """null from a daemon that is older than this field."""


class SelfTestStatus(Struct, frozen=True, kw_only=True):
    """The last self-test of a model."""

    age_s: float
    passed: bool


class ModelStatus(Struct, frozen=True, kw_only=True):
    """A model, in the results of models, status, load, swap and rollback."""

    model: messages.ModelInfo
    bundle: str
    device: str
    """The device as configured; `model.device` says which devices execute."""
    requests: int
    """Frames that it infers at the same time."""
    task: str
    input: tuple[int, int]
    """Width and height, in pixels."""
    labels: int
    thresholds: messages.UsedThresholds
    passed_over: str | None = None
    """The path of a newer bundle that has ended the process before and is not tried again."""
    self_test: SelfTestStatus | None = None
    """None from a daemon that is older than this field."""
    directory: str | None = None
    """What swap takes: the bundle's directory below the model's `bundle`; null if that is a bundle itself."""


class DeviceStatus(Struct, frozen=True):
    """A device that OpenVINO finds, in the result of devices."""

    name: str
    models: list[str]
    """The models that execute on it."""


class Status(Struct, frozen=True, kw_only=True):
    """Result of status: sockets, streams and models."""

    version: str
    epoch: str
    pid: int
    started_ns: int
    """Wall clock, nanoseconds since 1970."""
    endpoints: dict[str, list[str]]
    """Bound endpoints, by the socket's name."""
    connections: dict[str, int]
    """Open connections, by the socket's name."""
    refused: dict[str, int]
    """Refused connections, by `SOCKET/REASON`."""
    published: dict[str, int]
    """The last seq of every topic."""
    subscriptions: int
    """Subscriptions to detections, of all subscribers."""
    streams: list[StreamStatus]
    models: list[ModelStatus]
    problems: list[str] = []
    """Why not everything in the configuration is served, for people; empty if everything is."""


class SnapshotEntry(Struct, frozen=True):
    """The last message of a topic."""

    topic: str
    message: msgspec.Raw
    """The message as it was published."""


class Snapshot(Struct, frozen=True):
    """Result of snapshot: what a subscriber knows that was connected from the start."""

    epoch: str
    messages: list[SnapshotEntry]


class SelfTestResult(Struct, frozen=True):
    """Result of self_test: the models whose golden frames give the bundle's boxes."""

    models: list[str]


class ImageHeader(Struct, frozen=True, kw_only=True, tag_field="schema", tag="qzd.inference/1"):
    """The header of an image that is sent to the inference socket."""

    model: Name | None = None
    """The key of the model; may be omitted if there is only one."""
    format: ImageFormat
    """bgr: rows from the top, pixels from the left, one byte each for blue, green and red."""
    width: Annotated[int, Meta(ge=1)] | None = None
    """In pixels; only for bgr."""
    height: Annotated[int, Meta(ge=1)] | None = None
    timeout_ms: Annotated[int, Meta(ge=1)] | None = None
    """The deadline, from the arrival of the request."""


class FrameHeader(Struct, frozen=True, kw_only=True, tag_field="schema", tag="qzd.ingest/1"):
    """The header of a frame that is sent to the ingest socket."""

    stream: Name
    """The key of the stream, whose source is `ingest://`."""
    format: ImageFormat
    """bgr: rows from the top, pixels from the left, one byte each for blue, green and red."""
    width: Annotated[int, Meta(ge=1)] | None = None
    """In pixels; only for bgr."""
    height: Annotated[int, Meta(ge=1)] | None = None
    captured_ns: Annotated[int, Meta(ge=0)] | None = None
    """Wall clock at which the frame was captured, nanoseconds since 1970. If it is absent or in the future,
    the time of the frame's arrival."""
    pts_s: float | None = None
    """The frame's own time in its video, in seconds."""


class Accepted(Struct, frozen=True, tag_field="schema", tag="qzd.taken/1"):
    """The reply of the ingest socket to a frame that is queued for the stream's models."""

    frame: int
    """Its number in the stream, as in the detections message."""


class ImageError(Struct, frozen=True, tag_field="schema", tag="qzd.error/1"):
    """The reply of the inference and ingest sockets to an image that was not processed."""

    error: ErrorBody
