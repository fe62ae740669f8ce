"""The HTTP server over real connections: what it answers and refuses, and the daemon behind it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter

from qzd_daemon.config.load import read_config, split_address
from qzd_daemon.monitoring.http import MAX_CONNECTIONS, Http
from qzd_ext.errors import ConfigError, EndpointError
from support.configuration import model, publish, stream, table
from support.processes import Daemon
from support.waiting import until


@pytest.fixture
def problems() -> list[str]:
    return []


@pytest.fixture
def server(problems: list[str]) -> Iterator[Http]:
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc()
    server = Http("127.0.0.1:0", registry, list, lambda: problems)
    server.start()
    yield server
    server.close()


def get(address: str, path: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read().decode()
    finally:
        connection.close()


def test_metrics_are_text_as_prometheus_asks_for_it(server: Http) -> None:
    status, kind, text = get(server.address, "/metrics")
    assert (status, kind.split(";")[0]) == (200, "text/plain")
    assert "things_total 1.0" in text
    assert get(server.address, "/metrics", Accept="application/openmetrics-text")[1].startswith(
        "application/openmetrics-text"
    )


def test_ready_says_what_is_wrong(server: Http, problems: list[str]) -> None:
    assert get(server.address, "/v2/health/ready")[0] == 200
    problems.append("stream gate: down")
    status, _, text = get(server.address, "/v2/health/ready")
    assert (status, json.loads(text)) == (503, {"ready": False, "problems": ["stream gate: down"]})
    assert get(server.address, "/v2/health/live")[0] == 200


def test_head_has_no_body_and_another_path_is_not_found(server: Http) -> None:
    assert get(server.address, "/metrics", "HEAD")[2] == ""
    status, _, text = get(server.address, "/admin")
    assert status == 404
    assert "/metrics" in text


def test_nothing_can_be_changed_through_it(server: Http) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert get(server.address, "/metrics", method)[0] == 501


def test_serve_when_silent_callers_have_all_places_answers_all_the_same(server: Http) -> None:
    with contextlib.ExitStack() as silent:
        address = split_address(server.address)
        oldest = silent.enter_context(socket.create_connection(address, timeout=10))
        for _ in range(2 * MAX_CONNECTIONS):
            silent.enter_context(socket.create_connection(address))
        for _ in range(5):
            assert get(server.address, "/v2/health/live")[0] == 200
        assert oldest.recv(1) == b""


@pytest.mark.parametrize(
    "slow", [b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 1000, b""], ids=["trickle", "silent"]
)
def test_serve_when_a_request_takes_too_long_ends_it(
    server: Http, monkeypatch: pytest.MonkeyPatch, slow: bytes
) -> None:
    monkeypatch.setattr("qzd_daemon.monitoring.http.TIMEOUT_SECONDS", 0.2)
    with socket.create_connection(split_address(server.address), timeout=0.02) as caller:
        for byte in slow:
            try:
                caller.send(bytes((byte,)))
                assert caller.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                pass
            return
        caller.settimeout(10)
        assert caller.recv(1) == b""
    assert not slow, "it was read to its end"


def test_serve_when_no_thread_can_be_started_answers_again_when_one_can(
    server: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(MAX_CONNECTIONS + 1):
            with pytest.raises(ConnectionError):
                get(server.address, "/metrics")
    assert get(server.address, "/metrics")[0] == 200


def test_listen_on_what_is_no_name_says_so() -> None:
    with pytest.raises(EndpointError, match="encoding of hostname failed"):
        Http("\udcff:9178", CollectorRegistry(), list, list)


def test_listen_on_a_port_in_use_says_so(server: Http) -> None:
    with pytest.raises(EndpointError, match="in use"):
        Http(server.address, CollectorRegistry(), list, list)


@pytest.mark.parametrize("listen", ["9178", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", ":9178"])
def test_split_address_of_something_else_is_a_config_error(listen: str) -> None:
    with pytest.raises(ConfigError, match="not an address"):
        split_address(listen)


@pytest.mark.parametrize(
    ("listen", "split"), [("127.0.0.1:9178", ("127.0.0.1", 9178)), ("[::1]:1", ("::1", 1))]
)
def test_split_address_gives_both_parts(listen: str, split: tuple[str, int]) -> None:
    assert split_address(listen) == split


@pytest.mark.parametrize(("insecure", "allowed"), [("false", False), ("true", True)])
def test_listen_on_a_public_address_must_be_stated(tmp_path: Path, insecure: str, allowed: bool) -> None:
    path = tmp_path / "qzd.toml"
    path.write_text(f'[http]\nlisten = "0.0.0.0:9178"\ninsecure = {insecure}\n[models.m]\nbundle = "m"\n')
    if allowed:
        assert read_config(path).http.listen == "0.0.0.0:9178"
    else:
        with pytest.raises(ConfigError, match="would answer anyone"):
            read_config(path)


CONFIG = (
    publish() + table("http", listen="127.0.0.1:{port}") + model() + stream("gate", "{source}", max_down_s=0)
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_daemon_counts_its_frames_and_is_ready_until_it_stops(
    daemon: Callable[..., Daemon], tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    port = free_port()
    process = daemon(CONFIG.format(port=port, bundle=tiny_bundle, source=tmp_path / "images"))
    process.ready()
    address = f"127.0.0.1:{port}"
    assert get(address, "/v2/health/live")[0] == 200
    assert get(address, "/v2/health/ready") == (200, "application/json", '{"ready": true, "problems": []}\n')
    counted = 'qzd_frames_total{outcome="error",stream="gate"} 1.0'
    text = until(lambda: counted in (page := get(address, "/metrics")[2]) and page)
    assert 'qzd_stream_undecodable_frames_total{stream="gate"} 1.0' in text
    assert 'qzd_selftest_pass{device="CPU",model="tiny"} 1.0' in text
    assert "qzd_subscribers 0.0" in text
    assert process.stop() == 0
    with pytest.raises(ConnectionRefusedError):
        get(address, "/metrics")
