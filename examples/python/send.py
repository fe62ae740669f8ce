"""Send a video, frame by frame, to a stream of qzd whose source is `ingest://`.

python send.py VIDEO STREAM [ENDPOINT]

In qzd.toml: [ingest] bind = ["ipc:///run/qzd/ingest"] and [streams.STREAM] source = "ingest://"
"""

from __future__ import annotations

import sys
import time

import cv2

from qzd_client.frame_sender import FrameSender

video, stream = cv2.VideoCapture(sys.argv[1]), sys.argv[2]
endpoint = sys.argv[3] if len(sys.argv) > 3 else "ipc:///run/qzd/ingest"
with FrameSender(stream, endpoint) as sender:
    while True:
        there, frame = video.read()
        if not there:
            break
        number = sender.send(frame, captured_ns=time.time_ns())
        print("frame", number, "is on its way to the models of", stream)
