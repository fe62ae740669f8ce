"""What plain Python reaches with qzd's own parts: the bound of this machine for the engine.

Two threads: one reads a frame of a looped file, lays it into a request and starts it; the other waits in the
order of the starts, decodes, encodes a message and sends it over ZeroMQ to a subscriber in another process.
There are no queues per stream, no numbers, no metrics, and nothing may fail.

    python benchmarks/plain_loop.py BUNDLE VIDEO SECONDS

prints frames per second, and milliseconds of CPU time per frame.
"""

from __future__ import annotations

import itertools
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import msgspec
import zmq

from qzd_ext import bundle as bundles
from qzd_ext.detections import Detections
from qzd_ext.detector import Detector, Run
from qzd_ext.pictures import VideoPicture
from qzd_ext.runner import RunOptions

WARM_UP_SECONDS = 1.0
SUBSCRIBER = """
import sys, zmq
with zmq.Context() as context, context.socket(zmq.SUB) as socket:
    socket.rcvhwm = 0
    socket.connect(sys.argv[1])
    socket.subscribe(b"")
    while socket.recv_multipart()[0] != b"end":
        pass
"""


class PlainLoop:
    """A model with a socket, run by two threads.

    Parameters
    ----------
    detector : Detector
    frames : iterator of VideoPicture
    socket : Socket
    """

    def __init__(self, detector: Detector, frames: Iterator[VideoPicture], socket: zmq.Socket[bytes]) -> None:
        self._detector = detector
        self._frames = frames
        self._socket = socket
        self._runs: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._encoder = msgspec.json.Encoder()

    def rate(self, seconds: float) -> float:
        """Frames per second."""
        finisher = threading.Thread(target=self._finish)
        finisher.start()
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            slot = self._detector.acquire()
            assert slot is not None
            self._runs.put(self._detector.begin(slot, next(self._frames)))
            count += 1
        self._runs.put(None)
        finisher.join()
        return count / (time.perf_counter() - begin)

    def _finish(self) -> None:
        names = self._detector.bundle.manifest.labels.names
        for number in itertools.count():
            run = self._runs.get()
            if run is None:
                return
            run.slot.wait()
            found = self._detector.result(run).found
            assert isinstance(found, Detections)
            self._detector.release(run.slot)
            values = zip(found.class_ids.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
            listed = [{"label": names[c], "score": s, "box": b} for c, s, b in values]
            self._socket.send_multipart([b"t/", self._encoder.encode({"seq": number, "detections": listed})])


def read_frames(video: Path) -> Iterator[VideoPicture]:
    """Read a video over and over."""
    while True:
        with av.open(str(video)) as container:
            yield from map(VideoPicture, container.decode(video=0))


def main() -> None:
    """Print the rate of one run."""
    bundle, video, seconds = sys.argv[1:]
    cv2.setNumThreads(1)  # as the daemon has it
    with (
        tempfile.TemporaryDirectory(prefix="qzd-plain-") as folder,
        zmq.Context() as context,
        context.socket(zmq.XPUB) as socket,
        Detector(bundles.read(Path(bundle)), RunOptions(device="CPU")) as detector,
    ):
        endpoint = f"ipc://{folder}/socket"
        socket.sndhwm = 0
        socket.bind(endpoint)
        with subprocess.Popen([sys.executable, "-c", SUBSCRIBER, endpoint]) as subscriber:
            socket.recv()  # its subscription
            loop = PlainLoop(detector, read_frames(Path(video)), socket)
            loop.rate(WARM_UP_SECONDS)
            begin = time.process_time()
            rate = loop.rate(float(seconds))
            print(rate, (time.process_time() - begin) * 1e3 / (rate * float(seconds)))
            socket.send_multipart([b"end", b""])
            subscriber.wait(30)


if __name__ == "__main__":
    main()
