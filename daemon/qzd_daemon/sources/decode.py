"""The frames of a video that FFmpeg has opened: packets, pictures, and whether each is whole.

A picture that cannot be decoded is delivered as such, never left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast

import av
import av.container
import av.error
import av.logging

from qzd_daemon.sources.cadence import Cadence
from qzd_daemon.sources.damage import DamageTracker, LostPicture, Messages, Packet
from qzd_daemon.sources.frames import SourceFrame
from qzd_ext.pictures import VideoPicture

__all__ = ["decode_frames"]

LOOK_SECONDS = 0.005  # how soon a device's next picture is noticed
PROBED_SECONDS = 0.002  # a packet that FFmpeg read while it opened the container comes sooner
MOST_READ_ERRORS = 100  # in a row, before a file that cannot be read on has ended

Decode = Callable[[Packet], Sequence[av.VideoFrame]]
Wait = Callable[[float], bool]


def decode_frames(
    container: av.container.InputContainer,
    decode: Decode,
    wait: Wait = lambda _: True,
    probed: Messages = (),
) -> Iterator[SourceFrame]:
    """Deliver the frames of an open container.

    Parameters
    ----------
    container : InputContainer
    decode : callable
        Gives the pictures of a packet.
    wait : callable
        Called with 0 when what came makes no picture, and with the seconds to wait when nothing came from a
        container that is read without waiting; returns whether to go on.
    probed : Messages
        What FFmpeg said about losses while it opened the container. They may be in any of the packets that it
        read then.

    Yields
    ------
    SourceFrame
        One per picture, and one per picture that is lost.
    """
    video = container.streams.video[0]
    tracker = DamageTracker(video.codec_context)
    is_even = video.average_rate == video.base_rate and video.codec_context.skip_frame == "DEFAULT"
    pictures = _Pictures(tracker, Cadence(video.average_rate if is_even else None))
    for packet, messages in _read_packets(container, wait, probed):
        if packet.size:
            tracker.read(packet, messages)
        with av.logging.Capture() as said:
            try:
                decoded = decode(packet)
            except av.error.FFmpegError as error:
                yield _lost(tracker.failed(error))
                continue
        tracker.decoded(said)
        for picture in decoded:
            yield from pictures.deliver(picture)
        if not (decoded or wait(0.0)):
            return
    yield from map(_lost, tracker.lost_at_end())


def _read_packets(
    container: av.container.InputContainer, wait: Wait, probed: Messages
) -> Iterator[tuple[Packet, Messages]]:
    """Yield the video's packets, each with what FFmpeg said before it; the last is empty, for the decoder."""
    index = container.streams.video[0].index
    packets = container.demux()  # all of it: when the video stops, sound may go on for ever
    errors = 0
    unread: list[tuple[int, str, str]] = []
    while True:
        began = time.monotonic()
        with av.logging.Capture() as said:
            try:
                packet = cast("Packet | None", next(packets, None))
            except av.error.BlockingIOError:
                if not wait(LOOK_SECONDS):
                    return
                packets = container.demux()
                continue
            except av.error.InvalidDataError:
                errors += 1
                if errors == MOST_READ_ERRORS:
                    raise
                packets = container.demux()
                continue
        if packet is None:
            return
        if probed and time.monotonic() - began > PROBED_SECONDS:
            probed = ()
        unread += (*probed, *said)
        errors = 0
        if packet.stream_index == index:
            yield packet, unread
            unread = []
        elif not wait(0.0):
            return


class _Pictures:
    """Makes frames of pictures."""

    def __init__(self, tracker: DamageTracker, cadence: Cadence) -> None:
        self._tracker = tracker
        self._cadence = cadence

    def deliver(self, picture: av.VideoFrame) -> Iterable[SourceFrame]:
        """Yield the frame of a picture, after those that are lost before it."""
        yield from map(_lost, self._tracker.lost_before(picture))
        reason, absent = self._tracker.judge(picture), self._absent(picture.time)
        yield SourceFrame(VideoPicture(picture), reason, picture.time, absent=absent)

    def _absent(self, time: float | None) -> int:
        last = self._cadence.last
        if time is None or last is None:
            return 0 if time is None else self._cadence.absent(time)
        return max(0, self._cadence.absent(time) - self._tracker.told_between(last, time))


def _lost(picture: LostPicture) -> SourceFrame:
    reason, time = picture
    return SourceFrame(None, reason, time)
