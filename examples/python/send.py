"""Send a video, frame by frame, to a stream of qzd whose source is `ingest://`.

python send.py VIDEO STREAM [ENDPOINT]

In qzd.toml: [ingest] bind = ["ipc:///run/qzd/ingest"] and [streams.STREAM] source = "ingest://"
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import cv2
import numpy as np

from qzd_client.errors import QzdError
from qzd_client.frame_sender import FrameSender


def frames(path: str) -> Iterator[np.ndarray]:
    """Yield each picture of a video as (height, width, 3) uint8 BGR."""
    video = cv2.VideoCapture(path)
    if not video.isOpened():
        sys.exit(f"send.py: {path}: cannot be read as a video")
    try:
        while True:
            read, frame = video.read()
            if not read:
                return
            yield frame
    finally:
        video.release()


def main() -> None:
    """Send every frame, and print its number in the stream."""
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: python send.py VIDEO STREAM [ENDPOINT]")
    path, stream = sys.argv[1:3]
    endpoint = sys.argv[3] if len(sys.argv) > 3 else "ipc:///run/qzd/ingest"
    sent = 0
    try:
        with FrameSender(stream, endpoint) as sender:
            for frame in frames(path):
                number = sender.send(frame, captured_ns=time.time_ns())
                print("frame", number, "is on its way to the models of", stream)
                sent += 1
    except QzdError as error:
        sys.exit(f"send.py: {error}")
    if not sent:
        sys.exit(f"send.py: {path}: no frame could be decoded")


if __name__ == "__main__":
    main()
