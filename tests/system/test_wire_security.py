"""Peers at the CURVE port of a real daemon: each kind is refused, logged and counted."""

from __future__ import annotations

import itertools
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from qzd_client import ControlClient
from qzd_client.curve import write_pair
from qzd_client.frame_sender import FrameSender
from qzd_client.subscriber import Client, Keys
from qzd_ext.errors import EndpointError
from support.configuration import model, publish, sockets, stream, table
from support.processes import Daemon
from support.tiny_model import paint
from support.videos import write_clip

pytestmark = pytest.mark.system

CONFIG = (
    publish("tcp://127.0.0.1:*")
    + sockets("control")
    + table("http", listen="127.0.0.1:{port}")
    + table("ingest", bind=("tcp://127.0.0.1:*",))
    + table("security", server_key="server.key", authorized_keys="keys")
    + model()
    + stream("clip", "{directory}/clip.mp4", loop=True, max_fps=50)
    + stream("sent", "ingest://")
)
FRAME = paint((0, 0, "red"))


def test_strangers_receive_nothing_and_are_seen_in_log_and_metrics(
    daemon: Callable[..., Daemon], tiny_bundle: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
    (tmp_path / "keys").mkdir()
    for name in ("server", "other", "alice", "bob", "gone"):
        write_pair(tmp_path / f"{name}.key")
    for name in ("alice", "gone"):
        (tmp_path / "keys" / f"{name}.pub").write_bytes((tmp_path / f"{name}.pub").read_bytes())
    write_clip(tmp_path / "clip.mp4", [FRAME] * 10)
    config = CONFIG.format(directory=tmp_path, port=port, bundle=tiny_bundle)
    process = daemon(config).ready()
    with ControlClient(f"ipc://{tmp_path}/control") as caller:
        endpoints = caller.status().endpoints
    (endpoint,), (ingest,) = endpoints["publish"], endpoints["ingest"]

    def keys_of(name: str, server: str = "server") -> Keys:
        return Keys(tmp_path / f"{name}.key", tmp_path / f"{server}.pub")

    def client(name: str, server: str = "server") -> Client:
        return Client(endpoint, keys=keys_of(name, server))

    def send(keys: Keys | None, timeout: float = 2) -> int:
        with FrameSender("sent", ingest, keys=keys, timeout=timeout) as sender:
            return sender.send(FRAME)

    with client("alice") as alice, client("gone") as gone:
        assert alice.receive(20) is not None
        assert gone.receive(20) is not None
        (tmp_path / "keys" / "gone.pub").unlink()
        with client("bob") as bob, client("alice", server="other") as misled, Client(endpoint) as plain:
            time.sleep(3)
            while gone.receive(0) is not None:  # what came before its key was taken back
                pass
            assert [c.receive(1) for c in (bob, misled, plain, gone)] == [None] * 4
            assert [c.heard_at for c in (bob, misled, plain)] == [0.0] * 3
        assert alice.receive(20) is not None
    for keys in (None, keys_of("bob"), keys_of("gone"), keys_of("alice", server="other")):
        with pytest.raises(EndpointError, match="no answer"):
            send(keys)
    assert send(keys_of("alice"), timeout=20) == 0  # the first: no other was taken
    with zmq.Context() as context, context.socket(zmq.SUB) as raw:
        raw.linger = 0
        raw.subscribe("")
        raw.connect(endpoint)
        assert not raw.poll(1000)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        metrics = answer.read().decode()
    for reason, name in itertools.product(("key", "server_key"), ("publish", "ingest")):
        assert f'qzd_connections_refused_total{{socket="{name}",reason="{reason}"}}' in metrics or (
            f'qzd_connections_refused_total{{reason="{reason}",socket="{name}"}}' in metrics
        )
    for said in ("not among the authorised ones", "wrong server key", "no CURVE key", "a key was taken back"):
        assert said in process.log
    assert process.stop() == 0
