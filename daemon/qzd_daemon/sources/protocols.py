"""What FFmpeg may do for each scheme of a URL: protocols, formats and options.

A camera's answer must not make the daemon open files or other hosts: no HTTP redirect is followed, and a
playlist is read only if the operator asked for one.
"""

from __future__ import annotations

from types import MappingProxyType
from urllib.parse import urlsplit

from qzd_daemon.config.schema import StreamConfig

__all__ = ["ffmpeg_options"]

STREAMS = "mpjpeg,mjpeg,jpeg_pipe,png_pipe,webp_pipe,mpegts,flv,mov,matroska,webm,avi,nut,mpeg,h264,hevc"
PLAYLIST = "hls"

FORMATS = MappingProxyType({"rtsp": "rtsp,sdp", "rtsps": "rtsp,sdp", "rtp": "rtp,sdp,mpegts"})
PROTOCOLS = MappingProxyType(
    {
        "rtsp": "rtsp,rtp,srtp,udp,tcp",
        "rtsps": "rtsps,rtp,srtp,udp,tcp,tls",
        "http": "http,tcp",
        "https": "https,tls,tcp",
        "rtmp": "rtmp,tcp",
        "rtmps": "rtmps,tls,tcp",
        "udp": "udp",
        "rtp": "rtp,udp",
    }
)
OPTIONS = MappingProxyType(
    {
        "merge_pmt_versions": "1",  # else what goes on under other numbers in an MPEG-TS is never handed on
        "fpsprobesize": "0",  # do not wait for pictures to measure their rate
    }
)
OPTIONS_OF = MappingProxyType(
    {
        "rtsp": {"reorder_queue_size": "8"},  # else FFmpeg does not say what is missing over TCP
        "rtsps": {"reorder_queue_size": "8"},
        "http": {"max_redirects": "0"},
        "https": {"max_redirects": "0"},
    }
)


def ffmpeg_options(config: StreamConfig) -> dict[str, str]:
    """Return the options to open a stream's URL with."""
    scheme, path = config.scheme, urlsplit(config.source).path
    formats = FORMATS.get(scheme, STREAMS)
    if path.endswith(".m3u8"):
        formats = f"{formats},{PLAYLIST}"
    options = {**OPTIONS, **OPTIONS_OF.get(scheme, {}), **config.options}
    if scheme in ("rtsp", "rtsps"):
        options["rtsp_transport"] = config.rtsp_transport
    return {**options, "format_whitelist": formats, "protocol_whitelist": PROTOCOLS[scheme]}
