"""Which peers may connect, over real sockets with real keys."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zmq

from qzd_client import messages
from qzd_client.curve import write_pair
from qzd_client.subscriber import Client, Event, Keys, StreamState
from qzd_daemon.config.schema import PublishConfig, SecurityConfig
from qzd_daemon.server.publisher import Publisher
from qzd_daemon.transport.bind import bind_again
from qzd_daemon.transport.connections import PENDING_PER_ADDRESS, _Connection, _shut
from qzd_daemon.transport.listener import Limits, Listener
from qzd_ext.errors import EndpointError
from support.waiting import until

ANY_PORT = "tcp://127.0.0.1:*"
TOPIC = messages.stream_topic("gate")


class Service:
    """A publisher that asks for keys, and the keys of alice and carol, who may come in, and of bob."""

    def __init__(self, directory: Path, heartbeat_ms: int = 50) -> None:
        self.directory = directory
        self.authorised = directory / "authorised"
        self.authorised.mkdir()
        for name in ("server", "other", "alice", "bob", "carol"):
            write_pair(directory / f"{name}.key")
        self.let_in("alice")
        self.let_in("carol")
        self.listener = Listener(SecurityConfig(str(directory / "server.key"), str(self.authorised)))
        bind = (f"ipc://{directory}/socket", ANY_PORT)
        config = PublishConfig(bind, heartbeat_ms=heartbeat_ms, linger_ms=0)
        self.publisher = Publisher(config, self.listener)
        self.ipc, self.tcp = self.publisher.endpoints
        self.listener.start()
        self.publisher.start()

    def let_in(self, name: str) -> None:
        (self.authorised / f"{name}.pub").write_bytes((self.directory / f"{name}.pub").read_bytes())

    def take_back(self, name: str) -> None:
        (self.authorised / f"{name}.pub").unlink()

    def client(self, name: str, server: str = "server") -> Client:
        return Client(self.tcp, keys=Keys(self.directory / f"{name}.key", self.directory / f"{server}.pub"))

    def say(self) -> None:
        self.publisher.publish(TOPIC, StreamState(stream="gate", state="running"))

    def close(self) -> None:
        self.publisher.close()
        self.listener.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.close()


def heard(service: Service, client: Client, seconds: float) -> list[Event]:
    """Return what a client receives while the service publishes."""
    events = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        service.say()
        if (event := client.receive(0.02)) is not None:
            events.append(event)
    return events


def test_client_when_its_key_is_authorised_receives(service: Service) -> None:
    with service.client("alice") as client:
        assert service.publisher.wait_for_subscriptions(1, 5)
        service.say()
        assert isinstance(client.receive(5), StreamState)
    assert not service.listener.refused


def test_client_when_over_ipc_needs_no_key(service: Service) -> None:
    with Client(service.ipc) as client:
        assert service.publisher.wait_for_subscriptions(1, 5)
        service.say()
        assert isinstance(client.receive(5), StreamState)


@pytest.mark.parametrize(
    ("connect", "reason", "said"),
    [
        (lambda s: s.client("bob"), "key", "its key is not among the authorised ones"),
        # which of the two ends sees first that they do not fit is chance
        (lambda s: Client(s.tcp), "handshake|mechanism", "no CURVE key"),
        (lambda s: s.client("alice", server="other"), "server_key", "it has a wrong server key"),
        (lambda s: s.take_back("alice") or s.client("alice"), "key", "its key is not among"),
    ],
    ids=["wrong key", "no key", "wrong server key", "revoked key"],
)
def test_client_when_refused_receives_nothing_and_is_told_of(
    service: Service,
    connect: Callable[[Service], Client],
    reason: str,
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING), connect(service) as client:
        assert heard(service, client, 0.5) == []
        until(lambda: any(service.listener.refused["publish", one] for one in reason.split("|")))
        until(lambda: said in caplog.text)
        assert client.heard_at == 0.0
    assert service.publisher.subscriptions == 0


def test_client_when_its_key_is_taken_back_is_put_out_while_others_go_on(service: Service) -> None:
    with service.client("alice") as alice, service.client("carol") as carol:
        assert service.publisher.wait_for_subscriptions(2, 5)
        service.take_back("alice")
        until(lambda: service.listener.refused["publish", "key"])
        while alice.receive(0.1) is not None:  # what was on its way
            pass
        assert heard(service, alice, 0.5) == []
        until(lambda: heard(service, carol, 0.1))


def test_client_when_its_key_is_taken_back_is_put_out_before_the_next_heartbeat(tmp_path: Path) -> None:
    with contextlib.closing(Service(tmp_path, heartbeat_ms=20_000)) as service, service.client("alice"):
        assert service.publisher.wait_for_subscriptions(1, 5)
        service.take_back("alice")
        until(lambda: service.listener.refused["publish", "key"], 5)


def test_client_when_its_key_comes_later_gets_in(service: Service) -> None:
    with service.client("bob") as bob:
        until(lambda: service.listener.refused["publish", "key"])
        service.let_in("bob")
        until(lambda: heard(service, bob, 0.1))


def test_client_when_silent_peers_take_the_places_gets_in_all_the_same(service: Service) -> None:
    host, port = service.tcp.removeprefix("tcp://").split(":")
    with contextlib.ExitStack() as silent:
        for _ in range(80):
            silent.enter_context(socket.create_connection((host, int(port))))
        until(lambda: service.listener.refused["publish", "pending"] >= 80 - PENDING_PER_ADDRESS)
        assert service.listener.connections["publish"] == PENDING_PER_ADDRESS
        for _ in range(4):
            with service.client("alice") as client:
                until(partial(heard, service, client, 0.1))


def test_log_when_one_is_refused_again_and_again_says_it_once(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), zmq.Context() as context:
        for _ in range(20):
            with context.socket(zmq.SUB) as stranger:
                stranger.linger = 0
                stranger.connect(service.tcp)
                count = service.listener.refused.total()
                until(partial(lambda count: service.listener.refused.total() > count, count))
    assert caplog.text.count("no CURVE key") <= 2  # which of two reasons is seen is a race


def test_listener_when_an_authorised_file_is_no_key_ignores_it_and_says_so(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    (service.authorised / "nonsense.pub").write_text("nonsense")
    with caplog.at_level(logging.WARNING), service.client("alice"):
        assert service.publisher.wait_for_subscriptions(1, 5)
        until(lambda: "nonsense.pub: not a CURVE key" in caplog.text)


@pytest.mark.parametrize("endpoint", ["ipc://{directory}/socket", ANY_PORT, "tcp://*:*"])
def test_listener_when_too_many_connect_shuts_those_above_the_limit(tmp_path: Path, endpoint: str) -> None:
    listener = Listener()
    bound = (endpoint.format(directory=tmp_path),)
    bound_socket = listener.open("small", zmq.PUB, bound, Limits(1024, 3, 10, 10))
    listener.start()
    with zmq.Context() as context:
        peers = [context.socket(zmq.SUB) for _ in range(6)]
        for number, peer in enumerate(peers, 1):  # each at another address, where there are several
            peer.subscribe("")
            peer.connect(re.sub(r"\[::\]|0\.0\.0\.0", f"127.0.0.{number}", bound_socket.endpoints[0]))
        until(lambda: listener.refused["small", "limit"] >= 3)
        assert listener.connections == {"small": 3}
        for peer in peers:
            peer.close(linger=0)
    until(lambda: listener.connections == {"small": 0})
    listener.close()
    assert listener.refused["small", "limit"] >= 3


@pytest.mark.parametrize(
    "take", [lambda: socket.socket(socket.AF_UNIX).detach(), lambda: os.open(os.devnull, os.O_RDONLY)]
)
def test_shut_when_the_number_belongs_to_something_else_leaves_it_alone(take: Callable[[], int]) -> None:
    file = take()
    before = set(Path("/proc/self/fd").iterdir())
    _shut(_Connection(file, "ipc:///somewhere", ""))
    assert {path.name for path in before ^ set(Path("/proc/self/fd").iterdir())} <= {str(file + 1)}
    os.close(file)


def test_listener_when_what_it_is_told_makes_no_sense_goes_on(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.listener._handle(service.listener._watches[0], [b"nonsense"])
    assert "could not be judged" in caplog.text


def test_listener_when_a_key_has_a_name_that_is_no_text_lets_it_in(service: Service) -> None:
    name = os.fsencode(service.authorised) + b"/caf\xe9.pub"
    Path(os.fsdecode(name)).write_bytes((service.directory / "bob.pub").read_bytes())
    with service.client("bob") as bob:
        until(lambda: heard(service, bob, 0.1))


def test_bound_socket_when_something_else_takes_its_port_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener()
    bound_socket = listener.open("small", zmq.PUB, (ANY_PORT,), Limits(1024, 3, 10, 10))
    port = int(bound_socket.endpoints[0].rpartition(":")[2])
    taken: list[socket.socket] = []

    def come_first(*arguments: Any) -> None:
        while not taken:
            with contextlib.suppress(OSError):
                taken.append(socket.create_server(("127.0.0.1", port)))
        bind_again(*arguments)

    monkeypatch.setattr("qzd_daemon.transport.bound_socket.bind_again", come_first)
    bound_socket.disconnect("tcp://")
    assert "something else has taken it" in caplog.text
    taken[0].close()

    def is_bound() -> bool:
        bound_socket.refresh()
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    until(is_bound)
    listener.close()


def test_bound_socket_when_an_ipc_endpoint_is_bound_again_leaves_the_umask_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener()
    bound_socket = listener.open("small", zmq.PUB, (f"ipc://{tmp_path}/socket",), Limits(1024, 3, 10, 10))
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("it holds for all threads"))
    bound_socket.disconnect("")
    assert (tmp_path / "socket").stat().st_mode & 0o777 == 0o660
    listener.close()


def test_listener_when_another_process_serves_but_takes_nobody_says_so_at_once(tmp_path: Path) -> None:
    listener = Listener()
    path = f"{tmp_path}/socket"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(path)
        busy.listen(0)
        waiting.connect(path)
        with pytest.raises(EndpointError, match="in use"):
            listener.open("small", zmq.PUB, (f"ipc://{path}",), Limits(1024, 3, 10, 10))
    listener.close()


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
@pytest.mark.parametrize(
    "hosts", [("127.0.0.1", "[::1]"), ("[::1]", "127.0.0.1"), ("*", "127.0.0.1"), ("localhost", "lo")]
)
def test_listener_when_peers_are_put_out_again_and_again_binds_where_it_was(hosts: tuple[str, ...]) -> None:
    listener = Listener()
    endpoints = tuple(f"tcp://{host}:*" for host in hosts)
    bound_socket = listener.open("small", zmq.PUB, endpoints, Limits(1024, 3, 10, 10))
    listener.start()
    for _ in range(3):
        bound_socket.disconnect("tcp://")
    with zmq.Context() as context, context.socket(zmq.SUB) as peer:
        for host, endpoint in zip(hosts, bound_socket.endpoints, strict=True):
            peer.ipv6 = host == "[::1]"
            at = host if peer.ipv6 else "127.0.0.1"  # which is what libzmq takes a name for
            peer.connect(f"tcp://{at}:{endpoint.rpartition(':')[2]}")
        until(lambda: listener.connections["small"] == len(hosts))
    bound_socket.close(linger_ms=0)
    listener.close()


def test_bound_socket_when_it_is_closed_wakes_nobody_who_has_its_file_number_now(tmp_path: Path) -> None:
    listener = Listener()
    bound_socket = listener.open("small", zmq.ROUTER, (f"ipc://{tmp_path}/socket",), Limits(100, 3, 10, 10))
    bell = bound_socket._bell
    bound_socket.close(linger_ms=0)
    other = os.eventfd(0, os.EFD_NONBLOCK)
    os.dup2(other, bell)  # where they are the same file already, nothing
    bound_socket.wake()
    bound_socket.disconnect_later("tcp://")
    with pytest.raises(BlockingIOError):
        os.eventfd_read(other)
    for file in {other, bell}:
        os.close(file)
    listener.close()


def test_listener_when_all_peers_are_put_out_asks_each_endpoint_for_what_it_asked_for(
    service: Service,
) -> None:
    service.publisher._bound_socket.disconnect("")
    with zmq.Context() as context, context.socket(zmq.SUB) as local, context.socket(zmq.SUB) as stranger:
        for peer, endpoint in ((local, service.ipc), (stranger, service.tcp)):
            peer.linger = 0
            peer.subscribe(b"")
            peer.connect(endpoint)
        assert local.poll(5000)
        assert not stranger.poll(500)


def test_listener_when_a_frame_is_too_long_ends_the_connection_alone(tmp_path: Path) -> None:
    listener = Listener()
    bound_socket = listener.open("small", zmq.ROUTER, (f"ipc://{tmp_path}/socket",), Limits(100, 3, 10, 10))
    listener.start()
    with zmq.Context() as context, context.socket(zmq.DEALER) as bad, context.socket(zmq.DEALER) as good:
        for peer in (bad, good):
            peer.linger = 0
            peer.connect(bound_socket.endpoints[0])
        bad.send(b"x" * 101)
        good.send(b"x" * 100)
        assert bound_socket.socket.poll(5000)
        assert len(bound_socket.socket.recv_multipart()[1]) == 100
        assert not bound_socket.socket.poll(200)
    listener.close()


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
def test_open_on_a_path_that_is_not_a_socket_leaves_it_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "precious"
    match kind:
        case "file":
            path.write_text("mine")
        case "directory":
            path.mkdir()
        case "dangling link":
            path.symlink_to(tmp_path / "nowhere")
    listener = Listener()
    with pytest.raises(EndpointError, match="a file that is not a socket exists there"):
        listener.open("small", zmq.PUB, (f"ipc://{path}",), Limits(1024, 3, 10, 10))
    assert os.path.lexists(path)
    listener.close()
