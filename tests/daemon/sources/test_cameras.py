"""Cameras on the network: a real HTTP server that comes and goes."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import random
import threading
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from qzd_daemon.config.schema import StreamConfig
from qzd_daemon.sources.cameras import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Camera, DeviceCamera, Pause
from qzd_daemon.sources.frames import SourceFrame, SourceState
from support.tiny_model import COLOURS, paint
from support.videos import pixels

BOUNDARY = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n"


class MjpegServer(http.server.ThreadingHTTPServer):
    """Sends one picture after another, as cameras do; `hold` stops in the middle."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.frames_a_connection = 20
        self.grows_at = self.damaged_from = 1000
        self.hold = threading.Event()
        self.closing = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://camera:secret@127.0.0.1:{self.server_port}/stream.mjpg"

    def stop(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: MjpegServer

    def do_GET(self) -> None:
        with contextlib.suppress(ConnectionError):  # the camera's viewer may leave
            self._send_pictures()

    def _send_pictures(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for index in range(self.server.frames_a_connection):
            side = 64 if index < self.server.grows_at else 128
            picture = cv2.imencode(".jpg", paint((3, 3, COLOURS[index % 3]), side=side))[1].tobytes()
            if index >= self.server.damaged_from:
                picture = b"no picture"
            self.wfile.write(BOUNDARY + picture + b"\r\n")
            self.wfile.flush()
            if self.server.closing.wait(0.01):
                return
        if self.server.hold.is_set():
            self.server.closing.wait()

    def log_message(self, *args: object) -> None:
        pass


def _send_sound(handler: _Handler) -> None:
    """Ten pictures with sound, then only sound for half a minute."""
    handler.send_response(200)
    handler.end_headers()
    options = {"flush_packets": "1", "max_interleave_delta": "1"}
    container = av.open(handler.wfile, "w", "mpegts", options)
    video, sound = container.add_stream("mpeg4", rate=25), container.add_stream("mp2", rate=48000)
    video.width, video.height, video.pix_fmt, sound.layout = 64, 64, "yuv420p", "mono"
    for index in range(1500):
        if index < 10:
            picture = av.VideoFrame.from_ndarray(paint((index % 8, 3, "red")), format="bgr24")
            container.mux(video.encode(picture))
        heard = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.int16), format="s16", layout="mono")
        heard.sample_rate, heard.pts = 48000, 1920 * index
        container.mux(sound.encode(heard))
        if handler.server.closing.wait(0.02):
            return


def _send_renumbered(handler: _Handler) -> None:
    """Ten pictures of an MPEG-TS, then ten that an encoder sends which has started again."""
    handler.send_response(200)
    handler.end_headers()
    for begun in range(2):
        options = {"mpegts_start_pid": str(256 + begun), "tables_version": str(begun)}
        with av.open(handler.wfile, "w", "mpegts", options) as container:
            video = container.add_stream("mpeg4", rate=25)
            video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
            for index in range(10):
                picture = av.VideoFrame.from_ndarray(paint((index % 8, 3, "red")), format="bgr24")
                container.mux(video.encode(picture))
            container.mux(video.encode(None))


def _send_whole_ones_late(handler: _Handler) -> None:
    """Damaged pictures for a second and a half, then whole ones."""
    handler.send_response(200)
    handler.end_headers()
    with av.open(handler.wfile, "w", "nut", {"flush_packets": "1"}) as container:
        video = container.add_stream("rawvideo", rate=25)
        video.width, video.height, video.pix_fmt = 64, 64, "bgr24"
        whole = paint((3, 3, "red")).tobytes()
        for index in range(300):
            packet = av.Packet(b"damaged" if index < 150 else whole)
            packet.stream, packet.pts, packet.dts = video, index, index
            packet.time_base = Fraction(1, 25)
            container.mux(packet)
            if handler.server.closing.wait(0.01):
                return


@pytest.fixture
def server() -> Iterator[MjpegServer]:
    server = MjpegServer()
    yield server
    server.stop()


def watch(camera: Camera, until: int) -> list[SourceFrame | SourceState]:
    """Return what comes until there is a number of frames."""
    stopping = threading.Event()
    items: list[SourceFrame | SourceState] = []
    for item in camera.frames(stopping):
        items.append(item)
        if sum(isinstance(i, SourceFrame) for i in items) >= until:
            break
        if len(items) > 500:
            pytest.fail(f"{items[-5:]}")
    stopping.set()
    return items


def states(items: list[SourceFrame | SourceState]) -> list[str]:
    return [item.state for item in items if isinstance(item, SourceState)]


def camera(url: str, timeout_s: float = 5) -> Camera:
    return Camera(StreamConfig(source=url, model="any", timeout_s=timeout_s))


def test_camera_when_it_sends_delivers_its_pictures(server: MjpegServer) -> None:
    items = watch(camera(server.url), 10)
    assert states(items) == ["connecting", "connected", "running"]
    frames = [pixels(item) for item in items if isinstance(item, SourceFrame)]
    assert all(frame.shape == (64, 64, 3) for frame in frames)
    colours = [int(np.argmax(frame[28, 28])) for frame in frames]
    assert all(after == (before + 1) % 3 for before, after in itertools.pairwise(colours))


def test_camera_when_its_resolution_changes_delivers_the_new_one(server: MjpegServer) -> None:
    server.grows_at = 10
    items = watch(camera(server.url), 17)
    sides = [item.size[1] for item in items if isinstance(item, SourceFrame) and item.frame is not None]
    assert states(items) == ["connecting", "connected", "running"]
    assert sides == sorted(sides)
    assert set(sides) == {64, 128}


def test_camera_when_it_closes_the_connection_is_connected_to_again(server: MjpegServer) -> None:
    items = watch(camera(server.url), 30)
    assert states(items) == ["connecting", "connected", "running", "reconnecting", "connected", "running"]


def test_camera_when_it_falls_silent_is_connected_to_again(server: MjpegServer) -> None:
    server.hold.set()
    items = watch(camera(server.url, timeout_s=0.5), 30)
    assert states(items) == ["connecting", "connected", "running", "reconnecting", "connected", "running"]
    (told,) = [i.reason for i in items if isinstance(i, SourceState) and i.state == "reconnecting"]
    assert told is not None
    assert "nothing came for 0.5 s" in told


def test_camera_when_its_video_stops_and_its_sound_goes_on_is_connected_to_again(
    server: MjpegServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Handler, "_send_pictures", _send_sound)
    items = watch(camera(server.url, timeout_s=0.5), 11)
    assert states(items) == ["connecting", "connected", "running", "reconnecting", "connected", "running"]
    (told,) = [i.reason for i in items if isinstance(i, SourceState) and i.state == "reconnecting"]
    assert told is not None
    assert "no picture came for 0.5 s" in told


def test_camera_when_it_sends_nothing_whole_any_more_is_connected_to_again(server: MjpegServer) -> None:
    server.frames_a_connection, server.damaged_from = 1000, 3
    frames = camera(server.url, timeout_s=0.5).frames(threading.Event())
    told = next(i for i in frames if isinstance(i, SourceState) and i.state == "reconnecting")
    assert "no picture came for 0.5 s" in (told.reason or "")


def test_camera_when_its_first_whole_picture_is_late_is_waited_for(
    server: MjpegServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Handler, "_send_pictures", _send_whole_ones_late)
    items = watch(camera(server.url, timeout_s=0.5), 160)
    assert states(items) == ["connecting", "connected", "running"]
    whole = [i.frame is not None for i in items if isinstance(i, SourceFrame)]
    assert [whole[0], whole[-1]] == [False, True]
    assert whole == sorted(whole)


def test_camera_when_its_encoder_starts_again_under_another_number_is_read_on(
    server: MjpegServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Handler, "_send_pictures", _send_renumbered)
    items = watch(camera(server.url), 15)
    assert states(items) == ["connecting", "connected", "running"]


def test_camera_when_it_is_not_there_yet_is_waited_for() -> None:
    first = MjpegServer()
    first.stop()
    config = StreamConfig(source=first.url, model="any", timeout_s=5)
    source = Camera(config)
    stopping = threading.Event()
    items = source.frames(stopping)
    assert isinstance(next(items), SourceState)
    refused = next(items)
    assert isinstance(refused, SourceState)
    assert refused.state == "reconnecting"
    assert "Connection refused" in (refused.reason or "")
    server = MjpegServer(first.server_port)
    assert next(items) == SourceState("connected", config.address)
    assert next(items) == SourceState("running")
    stopping.set()
    assert isinstance(items, Generator)
    items.close()
    server.stop()


def test_camera_when_its_url_has_a_password_never_tells_it(server: MjpegServer) -> None:
    for item in watch(camera(server.url), 25):
        assert not isinstance(item, SourceState) or "secret" not in (item.reason or "")


def device(path: str, timeout_s: float = 5) -> DeviceCamera:
    return DeviceCamera(StreamConfig(source=f"v4l2://{path}", model="any", timeout_s=timeout_s))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/dev/nowhere", "/dev/nowhere: there is no such device; cameras that are there: "),
        ("/dev/null", "/dev/null: Inappropriate ioctl for device"),
    ],
)
def test_device_camera_when_it_is_not_there_says_so_and_is_waited_for(path: str, expected: str) -> None:
    items = list(itertools.islice(device(path).frames(threading.Event()), 3))
    assert states(items) == ["connecting", "reconnecting", "reconnecting"]
    assert all(isinstance(i, SourceState) and expected in (i.reason or "") for i in items[1:])


@pytest.mark.skipif(not Path("/dev/video0").exists(), reason="no camera; `modprobe vivid` makes one")
def test_device_camera_when_it_is_there_delivers_its_pictures() -> None:
    items = watch(device("/dev/video0"), 10)
    assert states(items) == ["connecting", "connected", "running"]
    assert all(item.frame is not None for item in items if isinstance(item, SourceFrame))


def test_pause_when_failures_go_on_grows_to_a_cap_and_begins_anew_after_a_frame() -> None:
    pause = Pause(random.Random(1))
    seconds = [pause.next() for _ in range(12)]
    assert FIRST_PAUSE_SECONDS / 2 <= seconds[0] <= FIRST_PAUSE_SECONDS
    assert all(LONGEST_PAUSE_SECONDS / 2 <= s <= LONGEST_PAUSE_SECONDS for s in seconds[-5:])
    assert len(set(seconds[-5:])) == 5
    pause.reset()
    assert pause.next() <= FIRST_PAUSE_SECONDS
