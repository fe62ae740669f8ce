"""Open a camera once, for a person who sets it up: what it sends, how fast, and a picture."""

from __future__ import annotations

import time
from dataclasses import dataclass

import av.error

from qzd_daemon.config.schema import StreamConfig
from qzd_daemon.sources.cameras import Camera, DeviceCamera
from qzd_ext.errors import SourceError
from qzd_ext.geometry import Frame
from qzd_ext.pictures import VideoPicture

__all__ = ["CameraReport", "camera_of", "probe_camera"]

SAMPLE_SECONDS = 4.0  # most cameras send a key frame within it


@dataclass(frozen=True, slots=True)
class CameraReport:
    """What a camera sends.

    Attributes
    ----------
    codec : str
    width, height : int
        In pixels.
    fps : float
        Frames per second that arrived.
    key_interval_s : float or None
        Seconds between key frames; None if fewer than two came.
    first_picture_s : float
        Seconds from the connection until the first picture.
    picture : (h, w, 3) uint8, BGR
    """

    codec: str
    width: int
    height: int
    fps: float
    key_interval_s: float | None
    first_picture_s: float
    picture: Frame

    def __str__(self) -> str:
        keys = f"a key frame every {self.key_interval_s:.1f} s" if self.key_interval_s else "few key frames"
        size = f"{self.codec} {self.width}x{self.height}, {self.fps:.1f} frames/s, {keys}"
        return f"{size}, first picture after {self.first_picture_s:.1f} s"


def camera_of(config: StreamConfig) -> Camera | None:
    """Return the camera that FFmpeg reads for a stream; None if its source is of another kind."""
    if config.is_sent or config.interval_s is not None or not config.is_url:
        return None
    return DeviceCamera(config) if config.source.startswith("v4l2://") else Camera(config)


def probe_camera(camera: Camera) -> CameraReport:
    """Read a camera for a few seconds.

    Raises
    ------
    SourceError
        It cannot be connected to, or sends no picture; the message says why.
    """
    began = time.monotonic()
    picture, first_picture_s = None, 0.0
    arrived: list[float] = []
    keys: list[float] = []
    with camera.open() as container:
        video = container.streams.video[0]
        try:
            for packet in container.demux(video):
                now = time.monotonic()
                arrived.append(now)
                if packet.is_keyframe:
                    keys.append(now)
                decoded = packet.decode() if picture is None else []
                if decoded:
                    picture, first_picture_s = VideoPicture(decoded[0]).to_bgr().copy(), now - began
                if picture is not None and now - arrived[0] > SAMPLE_SECONDS:
                    break
        except (av.error.FFmpegError, OSError) as error:
            if picture is None:
                raise SourceError(f"it sends no picture: {error.strerror}") from error
        if picture is None:
            raise SourceError("it sends no picture")
        codec = video.codec_context.name
    height, width = picture.shape[:2]
    fps = (len(arrived) - 1) / max(arrived[-1] - arrived[0], 1e-3)
    interval = (keys[-1] - keys[0]) / (len(keys) - 1) if len(keys) > 1 else None
    return CameraReport(codec, width, height, fps, interval, first_picture_s, picture)
