"""A real RTSP server serving a real video, killed and started again."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qzd_client.subscriber import Client, Detections, Event, Gap, StreamState
from support.configuration import model, publish, stream
from support.processes import Daemon

pytestmark = [pytest.mark.system, pytest.mark.data]

SYSTEM_PYTHON = "/usr/bin/python3"
NEEDS = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
CONFIG = (
    publish(wait_for_subscribers=1)
    + model()
    + stream("camera", "rtsp://127.0.0.1:{port}/camera", rtsp_transport="{transport}", timeout_s=3)
)


class Camera:
    """The server's process, on a port that stays the same when it is started again."""

    def __init__(self, video: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._video = video
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        script = Path(__file__).parents[1] / "support" / "rtsp_server.py"
        command = [SYSTEM_PYTHON, str(script), str(self.port), str(self._video)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        if self._process is not None:
            assert self._process.stdout is not None
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._process = None


@pytest.fixture
def camera(data: Path) -> Iterator[Camera]:
    if subprocess.run([SYSTEM_PYTHON, "-c", NEEDS], capture_output=True, check=False).returncode:
        pytest.skip("no RTSP server: apt install gir1.2-gst-rtsp-server-1.0 python3-gi")
    camera = Camera(data / "videos/car-detection.mp4")
    yield camera
    camera.kill()


def read_until(client: Client, done: Callable[[list[Event]], bool]) -> list[Event]:
    events: list[Event] = []
    while not done(events):
        event = client.receive(60)
        assert event is not None, [e for e in events if not isinstance(e, Detections)]
        events.append(event)
    return events


def frames(count: int) -> Callable[[list[Event]], bool]:
    return lambda events: sum(isinstance(e, Detections) and e.outcome == "ok" for e in events) >= count


def state(name: str) -> Callable[[list[Event]], bool]:
    return lambda events: bool(events) and isinstance(events[-1], StreamState) and events[-1].state == name


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_daemon_when_its_camera_dies_and_comes_back_goes_on(
    daemon: Callable[..., Daemon], tiny_bundle: Path, camera: Camera, transport: str
) -> None:
    process = daemon(CONFIG.format(bundle=tiny_bundle, port=camera.port, transport=transport)).ready()
    with Client(process.endpoint) as client:
        read_until(client, state("reconnecting"))  # the camera does not exist yet, which is not a failure
        camera.start()
        first = read_until(client, frames(30))
        camera.kill()
        read_until(client, state("reconnecting"))
        camera.start()
        second = read_until(client, frames(30))
    seen = [e for e in first + second if isinstance(e, Detections)]
    assert {(m.width, m.height) for m in seen} == {(768, 432)}
    assert [m.frame for m in seen] == sorted({m.frame for m in seen})
    assert not [e for e in first + second if isinstance(e, Gap)]
    assert process.stop() == 0, process.log
