"""The page over real HTTP: what it answers, to which peers, and that viewers who leave are disconnected."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qzd_client.messages import Box
from qzd_daemon.config.load import read_config, split_address
from qzd_daemon.monitoring import http as http_module
from qzd_daemon.monitoring.http import read_token
from qzd_ext.errors import ConfigError
from support.page_server import PageServer, detections
from support.processes import Daemon
from support.waiting import until

BOX = Box(0, "person", 0.9, (100.0, 100.0, 300.0, 300.0))
TOKEN = "0123456789abcdef"


@pytest.fixture
def page() -> Iterator[PageServer]:
    server = PageServer("gate", "yard")
    yield server
    server.close()


@contextlib.contextmanager
def asked(address: str, path: str, **headers: str) -> Iterator[http.client.HTTPResponse]:
    """Yield an answer, while its connection is open."""
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        with connection.getresponse() as answer:  # it holds the socket
            yield answer
    finally:
        connection.close()


def get(address: str, path: str, **headers: str) -> tuple[int, str, bytes]:
    with asked(address, path, **headers) as answer:
        return answer.status, answer.headers["Content-Type"], answer.read()


def events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    while True:
        kind = answer.readline().decode().removeprefix("event: ").strip()
        data = answer.readline().decode().removeprefix("data: ")
        assert answer.readline() == b"\n"
        yield kind, json.loads(data)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/app.mjs", "text/javascript; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
        ("/state", "application/json"),
    ],
)
def test_get_of_a_part_of_the_page_is_answered(page: PageServer, path: str, kind: str) -> None:
    assert get(page.address, path)[:2] == (200, kind)


def test_every_file_that_the_page_names_is_served(page: PageServer) -> None:
    text = get(page.address, "/")[2].decode() + get(page.address, "/app.mjs")[2].decode()
    names = re.findall(r'(?:src|href)="([^"#]+)"|from "\./([^"]+)"', text)
    assert len(names) >= 4
    for first, second in names:
        assert get(page.address, f"/{first or second}")[0] == 200


def test_page_has_no_inline_script_or_style_and_forbids_them(page: PageServer) -> None:
    with asked(page.address, "/") as answer:
        policy, text = answer.headers["Content-Security-Policy"], answer.read().decode()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", text)


@pytest.mark.parametrize("path", ["/../page.py", "/static/app.mjs", "/streams/", "/streams/gate"])
def test_get_of_something_else_is_not_found(page: PageServer, path: str) -> None:
    assert get(page.address, path)[0] == 404


def test_state_tells_streams_models_and_log(page: PageServer) -> None:
    page.say(detections("gate", BOX))
    state = json.loads(get(page.address, "/state")[2])
    assert [stream["name"] for stream in state["status"]["streams"]] == ["gate", "yard"]
    assert state["history"]["gate"]["counts"]["person"][-1] == 1
    assert state["accuracy"]["ssd"][0]["metrics"] == {"mAP": 0.2179}
    assert state["log"] == page.log


def test_picture_of_a_stream_is_a_jpeg_made_while_somebody_asks(page: PageServer) -> None:
    with asked_in_background(page, "/streams/gate.jpg") as answer:
        status, kind, content = answer()
    assert (status, kind, content[:2]) == (200, "image/jpeg", b"\xff\xd8")


@contextlib.contextmanager
def asked_in_background(page: PageServer, path: str) -> Iterator[Callable[[], tuple[int, str, bytes]]]:
    """Ask, and let a frame come as soon as the viewer is there."""
    connection = http.client.HTTPConnection(page.address, timeout=20)
    connection.request("GET", path)

    def answer() -> tuple[int, str, bytes]:
        until(lambda: page.view._watched)
        page.say(detections("gate", BOX))
        reply = connection.getresponse()
        return reply.status, reply.headers["Content-Type"], reply.read()

    try:
        yield answer
    finally:
        connection.close()


def test_picture_of_a_stream_that_sends_nothing_is_an_error(
    page: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qzd_daemon.monitoring.page.PICTURE_SECONDS", 0.1)
    status, _, text = get(page.address, "/streams/gate.jpg")
    assert (status, b"no frame came" in text) == (503, True)


def test_picture_of_an_unknown_stream_names_those_that_exist(page: PageServer) -> None:
    assert get(page.address, "/streams/nosuch.jpg")[0::2] == (404, b"no such stream; there are: gate, yard\n")


def test_mjpeg_sends_pictures_as_they_come(page: PageServer) -> None:
    with asked(page.address, "/streams/gate.mjpeg") as answer:
        until(lambda: page.view._watched)
        page.say(detections("gate", BOX))
        assert answer.readline() == b"--qzd-frame\r\n"
        assert answer.readline() == b"Content-Type: image/jpeg\r\n"
        length = int(answer.readline().split()[1])
        assert answer.readline() == b"\r\n"
        assert answer.read(length)[:2] == b"\xff\xd8"


def test_events_have_the_state_and_pictures_of_the_streams_that_are_asked_for(page: PageServer) -> None:
    with asked(page.address, "/events?stream=gate&fps=5") as answer:
        came = events(answer)
        assert next(came)[0] == "state"
        page.say(detections("yard", BOX))
        page.say(detections("gate", BOX))
        kind, data = next(event for event in came if event[0] != "state")
        assert (kind, data["stream"]) == ("picture", "gate")
        assert base64.b64decode(data["jpeg"])[:2] == b"\xff\xd8"


def test_results_of_a_stream_come_as_events(page: PageServer) -> None:
    page.say(detections("gate", BOX))
    with asked(page.address, "/streams/gate.events") as answer:
        kind, data = next(events(answer))
    assert (kind, data["last"]["found"]) == ("result", 1)


@pytest.mark.parametrize("path", ["/events?fps=5", "/streams/gate.mjpeg"])
def test_viewer_who_leaves_is_looked_after_no_more(page: PageServer, path: str) -> None:
    with asked(page.address, path):
        until(lambda: page.view._watched)
    until(lambda: not page.view._watched)


def test_viewers_when_there_are_too_many_are_told_so_and_metrics_are_still_answered(
    page: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "MAX_STREAMS", 2)
    with asked(page.address, "/events"), asked(page.address, "/events"):
        assert get(page.address, "/events")[0::2] == (503, b"2 viewers are here already\n")
        assert get(page.address, "/metrics")[0] == 200


def test_twenty_viewers_share_one_encoding(page: PageServer) -> None:
    with contextlib.ExitStack() as viewers:
        answers = [viewers.enter_context(asked(page.address, "/events?stream=gate")) for _ in range(20)]
        until(lambda: page.view._watched["gate"] == 20)
        page.say(detections("gate", BOX))
        pictures = [next(e[1]["jpeg"] for e in events(answer) if e[0] == "picture") for answer in answers]
    assert len(set(pictures)) == 1


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9178", 200),
        ("localhost", 200),
        ("[::1]:9178", 200),
        ("attacker.example", 421),
        ("attacker.example:9178", 421),
        ("", 421),
    ],
)
def test_page_when_asked_for_under_another_name_refuses(page: PageServer, host: str, status: int) -> None:
    assert get(page.address, "/state", Host=host)[0] == status
    assert get(page.address, "/metrics", Host=host)[0] == 200  # by any name


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("", 401),
        ("Basic " + base64.b64encode(f"me:{TOKEN}".encode()).decode(), 200),
        ("basic " + base64.b64encode(f":{TOKEN}".encode()).decode(), 200),
        ("Basic " + base64.b64encode(b"me:wrong").decode(), 401),
        ("Basic !!!", 401),
        ("Basic é", 401),
        (f"Bearer {TOKEN}", 401),
    ],
)
def test_page_when_it_has_a_token_asks_for_it(header: str, status: int) -> None:
    server = PageServer("gate", token=TOKEN)
    try:
        assert get(server.address, "/state", Authorization=header)[0] == status
        assert get(server.address, "/v2/health/live")[0] == 200
    finally:
        server.close()


@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [("short", 0o640, "too short"), (TOKEN, 0o644, "others may read"), (None, 0o640, "cannot be read")],
)
def test_token_that_protects_nothing_is_refused(
    tmp_path: Path, content: str | None, mode: int, expected: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(ConfigError, match=expected):
        read_token(path)


@pytest.mark.parametrize(("token", "allowed"), [("", False), ('token_file = "token"\n', True)])
def test_page_on_a_public_address_needs_a_token(tmp_path: Path, token: str, allowed: bool) -> None:
    path = tmp_path / "qzd.toml"
    head = f'[http]\nlisten = "0.0.0.0:9178"\ninsecure = true\npage = true\n{token}'
    path.write_text(f'{head}[models.m]\nbundle = "m"\n')
    if allowed:
        assert read_config(path).http.token_file == str(tmp_path / "token")
    else:
        with pytest.raises(ConfigError, match="would show pictures"):
            read_config(path)


CONFIG = """
[publish]
bind = ["ENDPOINT"]
[http]
listen = "127.0.0.1:{port}"
page = true
[models.tiny]
bundle = "{bundle}"
device = "CPU"
[streams.gate]
source = "{source}"
model = "tiny"
loop = true
max_fps = 20
"""


def test_daemon_shows_what_it_sees(daemon: Callable[..., Daemon], tiny_bundle: Path, tmp_path: Path) -> None:
    from support.tiny_model import paint
    from support.videos import write_clip

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source = write_clip(tmp_path / "clip.mp4", [paint((1, 2, "red"))] * 10)
    process = daemon(CONFIG.format(port=port, bundle=tiny_bundle, source=source)).ready()
    address = f"127.0.0.1:{port}"
    assert get(address, "/streams/gate.jpg")[:2] == (200, "image/jpeg")
    state = json.loads(get(address, "/state")[2])
    assert list(state["history"]["gate"]["counts"]) == ["red"]
    assert any("READY" in line for line in state["log"])
    with asked(address, "/events"):
        assert process.stop() == 0


def test_listen_address_is_what_a_viewer_connects_to(page: PageServer) -> None:
    assert split_address(page.address)[0] == "127.0.0.1"
