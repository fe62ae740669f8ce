"""A real RTSP camera for a test: GStreamer's server with a video file. Run by the system's Python.

    /usr/bin/python3 rtsp_server.py PORT VIDEO

On Debian: apt install gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-{good,bad}
"""

from __future__ import annotations

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

port, video = sys.argv[1:]
Gst.init(None)
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    f'( filesrc location="{video}" ! qtdemux ! h264parse ! rtph264pay name=pay0 config-interval=1 )'
)
factory.set_shared(True)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(port)
server.get_mount_points().add_factory("/camera", factory)
server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
