"""Debian's Prometheus scrapes the daemon, and a source that is gone raises the alert of docs/alerts.yml."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import pytest

from support.configuration import model, publish, stream, table
from support.debian import run, unmet
from support.processes import Daemon
from support.tiny_model import paint
from support.waiting import until

pytestmark = pytest.mark.system

DOCS = Path(__file__).resolve().parents[2] / "docs"
CONFIG = (
    publish()
    + table("http", listen="127.0.0.1:{port}")
    + model()
    + stream("belt", "{belt}", loop=True, max_fps=20)
    + stream("camera", "http://127.0.0.1:{camera}/video", timeout_s=1, max_down_s=1)
)
SCRAPE = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: qzd
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


@pytest.fixture(autouse=True)
def _needs() -> None:
    if reason := unmet("prometheus", "promtool"):
        pytest.skip(reason)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[int], int]]:
    """Start it on a daemon's port; returns its own. `for:` of the rules is cut to a second."""
    started: list[subprocess.Popen[bytes]] = []

    def start(target: int) -> int:
        rules = tmp_path / "alerts.yml"
        rules.write_text(re.sub(r"for: \w+", "for: 1s", (DOCS / "alerts.yml").read_text()))
        config = tmp_path / "prometheus.yml"
        config.write_text(SCRAPE.format(rules=rules, port=target))
        port = free_port()
        command = ["prometheus", f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}"]
        with (tmp_path / "prometheus.log").open("wb") as log:
            started.append(
                subprocess.Popen([*command, f"--storage.tsdb.path={tmp_path}/data"], stdout=log, stderr=log)
            )
        until(lambda: get(port, "/-/ready")[0] == 200)
        return port

    yield start
    for process in started:
        process.terminate()
        process.wait(30)


class CameraServer(ThreadingHTTPServer):
    """A camera on loopback; `gone` ends its pictures."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Camera)
        self.gone = threading.Event()


class Camera(BaseHTTPRequestHandler):
    """MJPEG over HTTP, until the server is told to stop."""

    server: CameraServer

    def do_GET(self) -> None:
        picture = cv2.imencode(".jpg", paint((1, 1, "red")))[1].tobytes()
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
        while not self.server.gone.wait(0.05):
            self.wfile.write(head.encode() + picture + b"\r\n")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def camera() -> Iterator[CameraServer]:
    server = CameraServer()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    stop(server)
    thread.join()


def stop(camera: CameraServer) -> None:
    camera.gone.set()
    camera.shutdown()
    camera.server_close()


def alerts(port: int) -> dict[str, dict[str, str]]:
    """Return the alerts that fire, by name, with their labels."""
    found = json.loads(get(port, "/api/v1/alerts")[1])["data"]["alerts"]
    return {a["labels"]["alertname"]: a["labels"] for a in found if a["state"] == "firing"}


def value(port: int, query: str) -> float:
    found = json.loads(get(port, f"/api/v1/query?query={urllib.parse.quote(query)}")[1])["data"]["result"]
    return float(found[0]["value"][1]) if found else 0.0


def test_source_that_stops_raises_its_alert_and_readiness_falls(
    daemon: Callable[..., Daemon],
    camera: CameraServer,
    tiny_bundle: Path,
    tmp_path: Path,
    prometheus: Callable[[int], int],
) -> None:
    belt = tmp_path / "belt"
    belt.mkdir()
    cv2.imwrite(str(belt / "0.png"), paint((1, 1, "red")))
    port = free_port()
    config = CONFIG.format(port=port, bundle=tiny_bundle, belt=belt, camera=camera.server_port)
    daemon(config).ready()
    watcher = prometheus(port)
    until(lambda: value(watcher, 'qzd_stream_up{stream="camera"}') == 1)
    assert "QzdSourceDown" not in alerts(watcher)
    assert get(port, "/v2/health/ready")[0] == 200
    stop(camera)
    firing = until(lambda: "QzdSourceDown" in (now := alerts(watcher)) and now)
    assert isinstance(firing, dict)
    assert firing["QzdSourceDown"]["stream"] == "camera"
    assert "QzdDown" not in firing
    status, text = get(port, "/v2/health/ready")
    assert status == 503
    assert "stream camera: down" in text
    assert get(port, "/v2/health/live")[0] == 200


def test_daemon_that_is_gone_raises_an_alert(prometheus: Callable[[int], int]) -> None:
    watcher = prometheus(free_port())
    until(lambda: "QzdDown" in alerts(watcher))


def test_rules_are_in_order() -> None:
    assert "SUCCESS" in run("promtool", "check", "rules", DOCS / "alerts.yml")


RULE_TEST = """
rule_files: ["{rules}"]
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series:
      - {{series: 'qzd_stream_up{{instance="a", stream="gate"}}', values: "1x60"}}
      - {{series: 'qzd_frames_total{{instance="a", stream="gate", outcome="{outcome}"}}', values: "0+10x60"}}
    promql_expr_test:
      - expr: 'count(ALERTS{{alertname="QzdNoInference", alertstate="firing"}})'
        eval_time: 10m
        exp_samples: [{expected}]
"""


@pytest.mark.parametrize(("outcome", "expected"), [("ok", ""), ("error", "{labels: '{}', value: 1}")])
def test_no_inference_fires_where_no_frame_was_ever_answered(
    tmp_path: Path, outcome: str, expected: str
) -> None:
    test = tmp_path / "test.yml"
    test.write_text(RULE_TEST.format(rules=DOCS / "alerts.yml", outcome=outcome, expected=expected))
    assert "SUCCESS" in run("promtool", "test", "rules", test)


def test_dashboard_and_rules_name_only_metrics_that_there_are() -> None:
    known = set(re.findall(r"^\| `(qzd_\w+)`", (DOCS / "reference.md").read_text(), re.MULTILINE))
    used = {
        name
        for page in ("alerts.yml", "grafana.json")
        for name in re.findall(r"\bqzd_\w+", (DOCS / page).read_text())
    }
    stems = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
    assert stems - known == set()
