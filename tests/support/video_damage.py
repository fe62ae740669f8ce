"""Damage as files and networks do it: packets altered or removed, and lost packets of an MPEG-TS."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np

from qzd_ext.geometry import Frame

__all__ = ["CODECS", "alter", "lose_ts_packets", "moving_squares", "write_video"]

X264 = {"preset": "veryfast", "g": "12"}
X265 = {"preset": "ultrafast"}
CODECS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {**X264, "bf": "0"}),
    "h264 with B-frames": ("libx264", {**X264, "bf": "3"}),
    "h264 with open groups": ("libx264", {**X264, "bf": "3", "x264-params": "open-gop=1"}),
    "h264 in slices": ("libx264", {**X264, "bf": "0", "x264-params": "slices=4"}),
    "hevc": ("libx265", {**X265, "x265-params": "bframes=0:keyint=12:log-level=none"}),
    "hevc with B-frames": (
        "libx265",
        {**X265, "x265-params": "bframes=3:keyint=12:open-gop=1:log-level=none"},
    ),
    "mjpeg": ("mjpeg", {"qmin": "3", "qmax": "5"}),
    "mpeg4": ("mpeg4", {"g": "12"}),
    "mpeg2": ("mpeg2video", {"g": "12", "bf": "2"}),
}


def moving_squares(count: int, side: int = 160) -> list[Frame]:
    """Pictures of noise over which a square moves, so that every packet matters."""
    rng = np.random.default_rng(1)
    ground = rng.integers(0, 255, (side // 4, side // 4, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    frames = []
    for index in range(count):
        frame = np.roll(ground, index, 1)
        left = 5 * index % (side - 40)
        frame[60:100, left : left + 40] = (0, 0, 255)
        frames.append(frame)
    return frames


def write_video(path: Path, kind: str, frames: list[Frame], *, extra: dict[str, str] | None = None) -> Path:
    """Write a video of a kind in `CODECS`, at 25 frames per second."""
    encoder, options = CODECS[kind]
    with av.open(str(path), "w") as container:
        stream = cast(
            "av.VideoStream", container.add_stream(encoder, rate=25, options={**options, **(extra or {})})
        )
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        stream.bit_rate = 2_000_000
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="bgr24")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def alter(source: Path, target: Path, change: Callable[[int, bytes], bytes | None]) -> Path:
    """Write a video again, each packet changed by its number and bytes; None removes it."""
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        video = reading.streams.video[0]
        stream = writing.add_stream_from_template(video)
        for number, packet in enumerate(p for p in reading.demux(video) if p.size):
            content = change(number, bytes(packet))
            if content is not None:
                copy = av.Packet(content)
                copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
                copy.time_base, copy.is_keyframe, copy.stream = packet.time_base, packet.is_keyframe, stream
                writing.mux(copy)
    return target


def lose_ts_packets(source: Path, target: Path, share: float, seed: int, spared: int = 100) -> Path:
    """Remove a share of the 188-byte packets of an MPEG-TS's video after the first ones."""
    rng, content, kept, seen = random.Random(seed), source.read_bytes(), bytearray(), 0
    with av.open(str(source)) as container:
        number = container.streams.video[0].id
    for at in range(0, len(content), 188):
        packet = content[at : at + 188]
        if int.from_bytes(packet[1:3], "big") & 0x1FFF == number:
            seen += 1
            if seen > spared and rng.random() < share:
                continue
        kept += packet
    target.write_bytes(kept)
    return target
