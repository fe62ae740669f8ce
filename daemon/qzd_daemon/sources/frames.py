"""What a source delivers: frames, the reasons why there are none, and news of the source itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import av
import av.container
import av.error
import numpy as np
from av.video.reformatter import VideoReformatter

from qzd_client.messages import SourceStateName
from qzd_daemon.sources.hardware import Packet
from qzd_ext.geometry import Frame

__all__ = ["SourceFrame", "SourceState", "decode_frames"]

LOOK_SECONDS = 0.005  # how soon a device's next picture is noticed


@dataclass(frozen=True, slots=True, eq=False)
class SourceFrame:
    """What a source delivered: a frame, or the reason why there is none.

    Attributes
    ----------
    frame : (h, w, 3) uint8 BGR, or None
    reason : str or None
        Why it could not be decoded.
    pts_s : float or None
        The frame's own time in its video, in seconds.
    file : str or None
        The file's name, for a directory.
    captured_ns : int
        Wall clock at which it was captured, as far as that is known.
    ready : float
        `time.perf_counter()` of the moment at which it was delivered.
    left_out : int
        Frames before this one that the source left out, because newer ones had come.
    """

    frame: Frame | None
    reason: str | None = None
    pts_s: float | None = None
    file: str | None = None
    captured_ns: int = field(default_factory=time.time_ns)
    ready: float = field(default_factory=time.perf_counter)
    left_out: int = 0

    def as_of_now(self) -> SourceFrame:
        """The same, captured now: a frame of a file is there when it is played, not when it is decoded."""
        return replace(self, captured_ns=time.time_ns(), ready=time.perf_counter())


@dataclass(frozen=True, slots=True)
class SourceState:
    """The state of a source has changed."""

    state: SourceStateName
    reason: str | None = None


def decode_frames(
    container: av.container.InputContainer,
    decode: Callable[[Packet], Sequence[av.VideoFrame]],
    wait: Callable[[float], bool] = lambda _: True,
) -> Iterator[SourceFrame]:
    """The frames of an open container. Damaged data is delivered as a frame that cannot be decoded.

    Parameters
    ----------
    container : InputContainer
    decode : callable
        The pictures of a packet.
    wait : callable
        Called with 0 where what came makes no picture, and with the seconds to wait where nothing came from a
        container that is read without waiting; returns whether to go on.
    """
    video = container.streams.video[0]
    packets = container.demux()  # all of it: where the video stops, sound may go on for ever
    reformatter = VideoReformatter()
    while True:
        try:
            packet = cast("Packet | None", next(packets, None))
            pictures = decode(packet) if packet and packet.stream_index == video.index else []
        except av.error.InvalidDataError as error:
            yield SourceFrame(None, f"damaged video data: {error.strerror}")
            continue
        except av.error.BlockingIOError:
            if not wait(LOOK_SECONDS):
                return
            packets = container.demux()
            continue
        if packet is None or not (pictures or wait(0.0)):
            return
        for picture in pictures:
            if picture.is_corrupt:  # FFmpeg has made up what was missing
                yield SourceFrame(None, "damaged video data: the picture is not whole", picture.time)
            else:
                yield SourceFrame(_to_bgr(picture, reformatter), pts_s=picture.time)


def _to_bgr(picture: av.VideoFrame, reformatter: VideoReformatter) -> Frame:
    """The picture's pixels as FFmpeg laid them out: a view of its buffer, whose rows may have a rest.

    One that is to be shown turned, as telephones record, is turned as players turn it, by quarters.
    One reformatter a source keeps FFmpeg's conversion tables between frames.
    """
    plane = reformatter.reformat(picture, format="bgr24", threads=1).planes[0]
    if plane.line_size < 0:  # bgr24 already, and bottom-up: PyAV's plane begins with the last row
        upright = reformatter.reformat(picture, format="rgb24", threads=1)
        plane = reformatter.reformat(upright, format="bgr24", threads=1).planes[0]
    rows = np.frombuffer(cast("memoryview[int]", plane), np.uint8).reshape(plane.height, plane.line_size)
    frame: Frame = rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3)
    quarters = round(picture.rotation / 90)
    return np.ascontiguousarray(np.rot90(frame, quarters)) if quarters else frame
