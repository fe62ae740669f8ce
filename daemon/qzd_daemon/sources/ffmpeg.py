"""Limits on the memory that FFmpeg takes for what a source sends."""

from __future__ import annotations

import ctypes
from typing import cast

import av
import av._core
from av.video.codeccontext import VideoCodecContext

__all__ = ["MAX_ALLOCATION_BYTES", "MAX_PIXELS", "limit_allocations", "limit_pixels"]

MAX_PIXELS = 40_000_000  # of a picture: 8K video has 33 million
MAX_ALLOCATION_BYTES = 128 << 20  # of any one buffer: a picture of MAX_PIXELS in BGR


def limit_allocations() -> None:
    """Let FFmpeg refuse any single allocation above MAX_ALLOCATION_BYTES, in the whole process.

    It allocates what a header states: a part of two gigabytes, or a picture while a stream is probed. PyAV
    has no call for this. Its module leads to its own libavutil; OpenCV has loaded another one.
    """
    ctypes.CDLL(av._core.__file__).av_max_alloc(ctypes.c_size_t(MAX_ALLOCATION_BYTES))


def limit_pixels(video: av.VideoStream) -> None:
    """Let a stream's decoder refuse pictures of more than MAX_PIXELS; before it decodes the first."""
    context = cast("VideoCodecContext | None", video.codec_context)
    if context is not None:  # FFmpeg does not know the codec
        context.options = {**context.options, "max_pixels": str(MAX_PIXELS)}
