"""Subscriptions are limited in bytes, and only the peer that has too many is disconnected."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import zmq

from qzd_client import messages
from qzd_daemon.config.schema import PublishConfig
from qzd_daemon.server import subscriptions
from qzd_daemon.server.publisher import Publisher
from qzd_daemon.transport.listener import Listener
from support.waiting import until

TOPIC = messages.stream_topic("gate")


@pytest.fixture(params=["ipc", "tcp"])
def publisher(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Publisher]:
    listener = Listener()
    bind = f"ipc://{tmp_path}/socket" if request.param == "ipc" else "tcp://127.0.0.1:*"
    publisher = Publisher(PublishConfig((bind,), linger_ms=0), listener)
    listener.start()
    publisher.start()
    yield publisher
    publisher.close()
    listener.close()


@contextlib.contextmanager
def _subscriber(context: zmq.Context[zmq.Socket[bytes]], publisher: Publisher) -> Iterator[zmq.Socket[bytes]]:
    with context.socket(zmq.SUB) as peer:
        peer.linger = 0
        peer.sndhwm = 0
        peer.reconnect_ivl = -1  # a peer that is disconnected stays away; set later, it has no effect
        serials = publisher._bound_socket.connections._serials
        before = sum(serials.values())
        peer.connect(publisher.endpoints[0])
        # what a peer sends before the listener has noted it is not charged to it
        until(lambda: sum(serials.values()) > before)
        yield peer


def _has_taken(publisher: Publisher, total: int) -> bool:
    return publisher._subscriptions._taken == total


def _flood(peer: zmq.Socket[bytes], total: int) -> None:
    noise = random.Random(1)
    for _ in range(total // 400):
        peer.subscribe(noise.randbytes(400))


def test_a_peer_with_too_many_bytes_of_subscriptions_loses_its_connection_and_others_do_not(
    publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        zmq.Context() as context,
        _subscriber(context, publisher) as honest,
        _subscriber(context, publisher) as attacker,
    ):
        honest.subscribe(TOPIC)
        _flood(attacker, 2 * subscriptions.MAX_PEER_BYTES)
        until(lambda: "bytes of subscriptions is disconnected" in caplog.text)
        until(lambda: publisher._bound_socket.connections.total == 1)
        until(lambda: sum(publisher._subscriptions._topics.values()) == 1)
        publisher.publish(TOPIC, messages.StreamState(stream="gate", state="running"))
        while honest.poll(5000):
            topic, payload = honest.recv_multipart()
            if topic.decode() == TOPIC:
                break
        assert messages.decode(payload).seq == 1
    assert len(caplog.records) == 1


def test_the_largest_of_many_peers_is_disconnected_when_all_together_have_too_many(
    publisher: Publisher, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "MAX_BYTES", 60_000)
    with contextlib.ExitStack() as peers:
        context = peers.enter_context(zmq.Context())
        for size, total in ((10_000, 10_000), (30_000, 40_000), (15_000, 54_800), (20_000, 44_800)):
            peer = peers.enter_context(_subscriber(context, publisher))
            _flood(peer, size)
            until(partial(_has_taken, publisher, total))
        until(lambda: "disconnected" in caplog.text)
        until(lambda: publisher._bound_socket.connections.total == 3)
    assert "30000 bytes of subscriptions" in caplog.text


def test_a_peer_that_comes_and_goes_is_charged_for_what_it_has_now(publisher: Publisher) -> None:
    with zmq.Context() as context:
        for _ in range(4):
            with _subscriber(context, publisher) as peer:
                _flood(peer, 100_000)
                until(lambda: sum(publisher._subscriptions._topics.values()) == 250)
            until(lambda: not publisher._subscriptions._topics)
    assert publisher._subscriptions._taken <= 400_000


def test_a_peer_that_unsubscribes_gets_its_bytes_back(publisher: Publisher) -> None:
    with zmq.Context() as context, _subscriber(context, publisher) as peer:
        for round_ in range(5):
            for number in range(250):
                peer.subscribe(b"%d-%d" % (round_, number) + b"x" * 390)
            until(lambda: sum(publisher._subscriptions._topics.values()) == 250)
            for number in range(250):
                peer.unsubscribe(b"%d-%d" % (round_, number) + b"x" * 390)
            until(lambda: not publisher._subscriptions._topics)
        assert publisher._subscriptions._taken == 0
