"""An RTSP camera on loopback: FFmpeg makes the RTP packets of a video, TCP carries them, some are lost."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av

__all__ = ["RtspCamera", "rtp_packets"]

PAYLOAD = {"h264": "H264", "hevc": "H265"}
FMTP = {"h264": "a=fmtp:96 packetization-mode=1\r\n", "hevc": ""}
RTCP = range(200, 205)

Packets = list[tuple[float, list[bytes]]]
"""For each picture its time in seconds, and its RTP packets."""


class _Sink:
    """Takes what FFmpeg writes, one RTP packet at a time."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []

    def write(self, data: bytes) -> int:
        if data[1] not in RTCP:
            self.packets.append(bytes(data))
        return len(data)

    def take(self) -> list[bytes]:
        taken, self.packets = self.packets, []
        return taken


def rtp_packets(path: Path) -> tuple[str, Packets]:
    """Read an MPEG-TS of H.264 or HEVC, whose parameter sets are in its pictures; returns its codec, too."""
    sink, pictures = _Sink(), Packets()
    with (
        av.open(str(path)) as reading,
        av.open(sink, "w", format="rtp", options={"packetsize": "1400"}) as writing,
    ):
        video = reading.streams.video[0]
        stream = writing.add_stream_from_template(video)
        for packet in reading.demux(video):
            if packet.size and packet.dts is not None:
                at = float(packet.dts * Fraction(packet.time_base))
                packet.stream = stream
                writing.mux(packet)
                pictures.append((at, sink.take()))
        return video.codec_context.name, pictures


class RtspCamera:
    """Sends a video to each client from its beginning, at its own speed, then closes.

    Parameters
    ----------
    path : Path
        An MPEG-TS.
    loss : float
        Share of the RTP packets that are lost, after the first picture.
    seed : int
    speed : float
        Times the video's own.
    """

    def __init__(self, path: Path, *, loss: float = 0.0, seed: int = 1, speed: float = 1.0) -> None:
        self.codec, self.pictures = rtp_packets(path)
        self.lost = 0
        self.sent_at: list[float] = []  # `time.monotonic()` of each picture, of the last client
        self._loss, self._seed, self._speed = loss, seed, speed
        self._closing = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"rtsp://127.0.0.1:{self._server.getsockname()[1]}/camera"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> RtspCamera:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                thread = threading.Thread(target=self._serve, args=(client,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.settimeout(30)
            for method, number in _requests(client):
                client.sendall(self._answer(method, number))
                if method == "PLAY":
                    self._play(client)
                    return

    def _answer(self, method: str, number: str) -> bytes:
        head, body = f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\nSession: 1\r\n", ""
        if method == "OPTIONS":
            head += "Public: OPTIONS, DESCRIBE, SETUP, PLAY\r\n"
        elif method == "DESCRIBE":
            body = (
                "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
                f"a=rtpmap:96 {PAYLOAD[self.codec]}/90000\r\n{FMTP[self.codec]}a=control:track1\r\n"
            )
            head += f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
        elif method == "SETUP":
            head += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
        return f"{head}\r\n{body}".encode()

    def _play(self, client: socket.socket) -> None:
        rng, begin, first = random.Random(self._seed), time.monotonic(), self.pictures[0][0]
        self.sent_at, self.lost = [], 0
        for index, (at, packets) in enumerate(self.pictures):
            due = begin + (at - first) / self._speed
            if self._closing.wait(max(0.0, due - time.monotonic())):
                return
            self.sent_at.append(time.monotonic())
            for packet in packets:
                if index and rng.random() < self._loss:
                    self.lost += 1
                else:
                    client.sendall(b"$\x00" + len(packet).to_bytes(2, "big") + packet)
        self._closing.wait(0.5)  # until all of it is read


def _requests(client: socket.socket) -> Iterator[tuple[str, str]]:
    """Yield the method and the number of each request."""
    buffer = b""
    while data := client.recv(4096):
        buffer += data
        while b"\r\n\r\n" in buffer:
            head, buffer = buffer.split(b"\r\n\r\n", 1)
            lines = head.decode("latin1").split("\r\n")
            number = next(line for line in lines if line.lower().startswith("cseq:"))
            yield lines[0].split()[0], number.partition(":")[2].strip()
