"""`qzd --check-config --probe`: each camera is opened, and says what it sends."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from qzd_daemon.config.schema import StreamConfig
from qzd_daemon.sources.probe import camera_of, probe_camera
from qzd_ext.errors import SourceError
from support.tiny_model import paint
from support.videos import write_clip

COMMAND = (sys.executable, "-c", "from qzd_daemon.cli import main; main()")


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[str]:
    """Serve 30 pictures of 64x64 over HTTP, and return the URL."""
    (tmp_path / "served").mkdir()
    write_clip(tmp_path / "served/clip.mp4", [paint((i % 8, 0, "red")) for i in range(30)])
    handler = functools.partial(_Files, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/clip.mp4"
        server.shutdown()
        thread.join()


def probed(source: str) -> str:
    found = camera_of(StreamConfig(source=source, model="m"))
    assert found is not None
    return str(probe_camera(found))


def test_probe_says_what_a_camera_sends(camera: str) -> None:
    said = probed(camera)
    assert " 64x64, " in said
    assert "frames/s" in said
    assert "first picture after" in said


@pytest.mark.parametrize(
    ("source", "expected"),
    [("http://127.0.0.1:1/x", "refused"), ("rtsp://me:secret@127.0.0.1:1/x", "refused")],
)
def test_probe_when_a_camera_cannot_be_reached_says_why(source: str, expected: str) -> None:
    with pytest.raises(SourceError) as caught:
        probed(source)
    assert expected in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("source", ["clip.mp4", "ingest://"])
def test_source_that_is_no_camera_is_left_out(source: str) -> None:
    assert camera_of(StreamConfig(source=source, model="m")) is None


@pytest.mark.parametrize(("broken", "code"), [(False, 0), (True, 3)])
def test_check_config_with_probe_writes_a_picture_of_each_camera(
    camera: str, tiny_bundle: Path, tmp_path: Path, broken: bool, code: int
) -> None:
    second = '[streams.cellar]\nsource = "http://127.0.0.1:1/x"\nmodel = "tiny"\n' if broken else ""
    first = f'[streams.gate]\nsource = "{camera}"\nmodel = "tiny"\n'
    config, pictures = tmp_path / "qzd.toml", tmp_path / "out"
    config.write_text(f'[models.tiny]\nbundle = "{tiny_bundle}"\n{first}{second}')
    command = [*COMMAND, "--config", str(config), "--check-config", "--probe", str(pictures)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert f"see {pictures}/gate.jpg" in done.stdout
    picture = cv2.imread(str(pictures / "gate.jpg"))
    assert picture is not None
    assert picture.shape == (64, 64, 3)
    assert ("cellar: " in done.stderr) == broken
