"""Still pictures in files: of any kind that FFmpeg knows, each whole or refused with the reason.

JPEG and PNG are decoded as those that are sent; the rest by FFmpeg. Formats are told by their first bytes and
named to FFmpeg, so that no file can be taken for a playlist.
"""

from __future__ import annotations

import io
from typing import Literal

import av
import av.error
import av.logging

from qzd_daemon.sources.ffmpeg import MAX_PIXELS, limit_pixels
from qzd_ext.geometry import Frame
from qzd_ext.images import NotAnImageError, read_image
from qzd_ext.pictures import VideoPicture

__all__ = ["read_still"]

SENT: dict[bytes, Literal["jpeg", "png"]] = {b"\xff\xd8": "jpeg", b"\x89PNG\r\n\x1a\n": "png"}
FORMATS = (  # how a file begins, from which byte on, and FFmpeg's name
    (b"WEBP", 8, "webp_pipe"),
    (b"GIF8", 0, "gif"),
    (b"BM", 0, "bmp_pipe"),
    (b"II*\x00", 0, "tiff_pipe"),
    (b"MM\x00*", 0, "tiff_pipe"),
    (b"\x00\x00\x00\x0cjP  ", 0, "j2k_pipe"),
    (b"ftypavif", 4, "mov"),
    (b"P5", 0, "pgm_pipe"),
    (b"P6", 0, "ppm_pipe"),
)
HEIC = (b"ftypheic", b"ftypheix", b"ftypmif1")


def read_still(content: bytes) -> Frame:
    """Decode a still picture.

    Parameters
    ----------
    content : bytes
        Of the whole file.

    Returns
    -------
    (h, w, 3) uint8, BGR

    Raises
    ------
    TooLargeError
        It is a JPEG or PNG of more than MAX_PIXELS.
    NotAnImageError
        It is of no known kind, is not whole, or cannot be decoded.
    """
    for start, form in SENT.items():
        if content.startswith(start):
            return read_image(form, content, None, None, MAX_PIXELS)
    for start, at, name in FORMATS:
        if content.startswith(start, at):
            return _decode(content, name)
    if content.startswith(HEIC, 4):
        raise NotAnImageError("HEIC, which is not supported", fix="convert it to JPEG")
    raise NotAnImageError("not an image")


def _decode(content: bytes, name: str) -> Frame:
    with av.logging.Capture() as said:
        try:
            picture = _first_picture(content, name)
        except (av.error.FFmpegError, OSError) as error:
            raise NotAnImageError(f"cannot be decoded: {error.strerror or error}") from error
    if said or picture is None or picture.is_corrupt:
        reason = " ".join(said[0][2].split()) if said else "there is no whole picture in it"
        raise NotAnImageError(f"cannot be decoded: {reason}")
    return VideoPicture(picture).to_bgr()


def _first_picture(content: bytes, name: str) -> av.VideoFrame | None:
    options = {"max_pixels": str(MAX_PIXELS)}
    with av.open(io.BytesIO(content), "r", format=name, options=options) as container:
        if not container.streams.video:
            return None
        limit_pixels(container.streams.video[0])
        return next(container.decode(video=0), None)
