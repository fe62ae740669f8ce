"""Decoders: Intel's Quick Sync if it is asked for and works, else software."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal, cast

import av
import av.container
import av.error
from av.codec.codec import UnknownCodecError
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext

from qzd_daemon.sources.damage import Packet
from qzd_daemon.sources.ffmpeg import MAX_PIXELS, limit_pixels

__all__ = ["HardwareDecoder", "Skip", "decoder"]

Skip = Literal["nonref", "nonkey"]
SKIPPED: dict[Skip, Literal["NONREF", "NONKEY"]] = {"nonref": "NONREF", "nonkey": "NONKEY"}
THREADED = "libdav1d"  # has threads of its own, which log nothing

log = logging.getLogger(__name__)


def decoder(
    container: av.container.InputContainer, source: str, *, hardware: bool, skip: Skip | None = None
) -> Callable[[Packet], Sequence[av.VideoFrame]]:
    """Return what decodes the packets of a container's video.

    Parameters
    ----------
    container : InputContainer
    source : str
        Whose video it is, for the log.
    hardware : bool
        Try hardware first.
    skip : "nonref", "nonkey" or None
        Pictures that are not decoded.
    """
    video = container.streams.video[0]
    limit_pixels(video)
    context = video.codec_context
    if context.name != THREADED:
        context.thread_count = 1  # so that what FFmpeg logs is logged by the thread that decodes
    context.options = {**context.options, "err_detect": "crccheck"}
    if skip is not None:
        context.skip_frame = SKIPPED[skip]
    _show_damage(context)
    if not hardware:
        return _in_software
    return HardwareDecoder(video, f"{video.codec_context.codec.canonical_name}_qsv", source).decode


class HardwareDecoder:
    """A decoder by its name; with the first packet that it fails on, software takes its place.

    FFmpeg finds out only then whether there is a device, and a driver.

    Parameters
    ----------
    video : VideoStream
    name : str
        The decoder's.
    source : str
        Whose video it is, for the log.
    """

    def __init__(self, video: av.VideoStream, name: str, source: str) -> None:
        self._name = name
        self._source = source
        self._proven = False
        self._context: VideoCodecContext | None = None
        try:
            context = cast("VideoCodecContext", av.CodecContext.create(name, "r"))
        except UnknownCodecError:
            self._give_up("there is no such decoder")
            return
        context.extradata = video.codec_context.extradata
        context.options = {"max_pixels": str(MAX_PIXELS)}
        _show_damage(context)
        self._context = context

    def decode(self, packet: Packet) -> Sequence[av.VideoFrame]:
        """Return the pictures of a packet; raise what `Packet.decode` raises."""
        if self._context is not None:
            try:
                pictures = self._context.decode(packet)
            except av.error.FFmpegError as error:
                if self._proven and isinstance(error, av.error.InvalidDataError):
                    raise
                self._give_up(error.strerror or str(error))
            else:
                self._report_working(pictures)
                return pictures
        return _in_software(packet)

    def _report_working(self, pictures: Sequence[av.VideoFrame]) -> None:
        if pictures and not self._proven:
            self._proven = True
            log.info("%s is decoded by %s", self._source, self._name)

    def _give_up(self, why: str) -> None:
        self._context = None
        log.warning("%s is decoded in software: %s: %s", self._source, self._name, why)


def _show_damage(context: VideoCodecContext) -> None:
    """Let pictures that are not whole come out, marked, and every picture tell its packet."""
    context.flags |= Flags.output_corrupt
    context.copy_opaque = True


def _in_software(packet: Packet) -> Sequence[av.VideoFrame]:
    return packet.decode()
