"""Peers that take places, files and memory without a word, or with too many."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import socket
import threading
import time
from collections.abc import Callable

import pytest

from qzd_client import ControlClient
from support.raw_peer import RawPeer
from support.victim import Victim

pytestmark = pytest.mark.system


def _address(victim: Victim, name: str) -> tuple[str, int]:
    """Where a socket listens over TCP, by its line in the log."""
    line = next(line for line in victim.daemon.log.splitlines() if f"{name} on " in line)
    found = re.search(r"127\.0\.0\.1:(\d+)", line)
    assert found
    return "127.0.0.1", int(found[1])


def test_silent_connections_beyond_the_open_files(victim: Callable[..., Victim]) -> None:
    attacked = victim(files=1024)
    address = _address(attacked, "publishing")
    with contextlib.ExitStack() as silent:
        end = time.monotonic() + 10
        count = 0
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                for _ in range(20):
                    made = socket.create_connection(address, timeout=1)
                    count += 1
                    if count % 2:
                        silent.enter_context(made)  # the rest come and go
                    else:
                        made.close()
            if count > 800:
                silent.pop_all().close()
                count = 0
        with ControlClient(attacked.daemon.socket_of("control"), timeout=10) as control:
            control.ping()
    attacked.check()


def test_peers_over_ipc_beyond_the_open_files(victim: Callable[..., Victim]) -> None:
    attacked = victim(files=1024)
    with contextlib.ExitStack() as peers:
        for _ in range(800):
            with contextlib.suppress(OSError):
                peers.enter_context(contextlib.closing(RawPeer(attacked.daemon.endpoint, "SUB")))
        time.sleep(1)
    with ControlClient(attacked.daemon.socket_of("control"), timeout=10) as control:
        control.ping()
    attacked.check()


def test_thirty_megabytes_of_subscriptions(victim: Callable[..., Victim]) -> None:
    attacked = victim()
    endpoint, noise = attacked.daemon.endpoint, random.Random(19)
    left = 30_000_000
    while left > 0:
        with (
            contextlib.suppress(OSError),
            contextlib.closing(RawPeer(endpoint, "SUB")) as peer,
        ):
            while left > 0:
                peer.send(b"\x01" + noise.randbytes(500))
                left -= 500
    attacked.check()
    assert attacked.rss < 300 << 20
    assert "bytes of subscriptions" in attacked.daemon.log


def test_slow_http_clients(victim: Callable[..., Victim]) -> None:
    attacked = victim()
    address = _address(attacked, "HTTP")
    stop = threading.Event()

    def trickle() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), socket.create_connection(address, timeout=1) as caller:
                caller.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
                while not stop.wait(1):
                    caller.sendall(b"x")

    threads = [threading.Thread(target=trickle) for _ in range(16)]
    for thread in threads:
        thread.start()
    try:
        answered = 0
        for _ in range(25):
            connection = http.client.HTTPConnection(*address, timeout=5)
            with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/v2/health/live")
                answered += json.load(connection.getresponse())["live"]
            time.sleep(0.2)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert answered == 25
    attacked.check()
