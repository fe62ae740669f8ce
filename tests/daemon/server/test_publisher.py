"""Publisher and client over real sockets: order, numbers, losses, and endpoints that cannot be bound."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from qzd_client import messages
from qzd_client.subscriber import Client, Event, Gap, StreamState
from qzd_daemon.config.schema import PublishConfig
from qzd_daemon.server.publisher import Publisher
from qzd_daemon.transport.listener import Listener
from qzd_ext.errors import EndpointError
from support.results import instance_of
from support.waiting import until

ANY_PORT = "tcp://127.0.0.1:*"
TOPIC = messages.stream_topic("gate")


def say(number: int) -> StreamState:
    return StreamState(stream="gate", state="running", frames=number)


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def publisher(listener: Listener) -> Iterator[Publisher]:
    publisher = Publisher(PublishConfig(bind=(ANY_PORT,), heartbeat_ms=50, linger_ms=200), listener)
    listener.start()
    publisher.start()
    yield publisher
    if publisher._thread.is_alive():
        publisher.close()


@pytest.fixture
def client(publisher: Publisher) -> Iterator[Client]:
    with Client(publisher.endpoints[0]) as client:
        assert publisher.wait_for_subscriptions(1, 5)
        assert client.receive(0.2) is None  # a heartbeat is not an event, but it has come
        yield client


def receive(client: Client, count: int) -> list[Event | None]:
    return [client.receive(5) for _ in range(count)]


@pytest.mark.parametrize(
    "reason", ["\udcff", "x" * messages.MAX_MESSAGE_BYTES], ids=["no UTF-8", "too large"]
)
def test_publish_when_a_message_cannot_be_sent_leaves_no_hole(
    publisher: Publisher, client: Client, reason: str
) -> None:
    publisher.publish(TOPIC, say(1))
    with pytest.raises(ValueError, match=r"surrogates|more than"):
        publisher.publish(TOPIC, StreamState(stream="gate", state="running", reason=reason))
    publisher.publish(TOPIC, say(2))
    states = [instance_of(StreamState, event) for event in receive(client, 2)]
    assert [(state.seq, state.frames) for state in states] == [(1, 1), (2, 2)]


def test_publish_when_one_subscribes_numbers_and_keeps_the_order(
    publisher: Publisher, client: Client
) -> None:
    for number in range(500):
        publisher.publish(TOPIC, say(number))
    events = receive(client, 500)
    assert [(e.frames, e.seq) for e in events if isinstance(e, StreamState)] == [
        (n, n + 1) for n in range(500)
    ]
    assert {e.epoch for e in events if isinstance(e, StreamState)} == {publisher.epoch}


def test_publish_when_streams_are_chosen_sends_no_other(publisher: Publisher) -> None:
    with Client(publisher.endpoints[0], streams=["cam1"]) as client:
        assert publisher.wait_for_subscriptions(1, 5)
        for name in ("cam10", "cam1"):
            publisher.publish(messages.stream_topic(name), StreamState(stream=name, state="running"))
        event = client.receive(5)
    assert isinstance(event, StreamState)
    assert event.stream == "cam1"


def test_publish_when_the_subscriber_is_slow_reports_each_loss_once(listener: Listener) -> None:
    config = PublishConfig(bind=(ANY_PORT,), send_hwm=10, heartbeat_ms=50, linger_ms=0)
    publisher = Publisher(config, listener)
    listener.start()
    publisher.start()
    with Client(publisher.endpoints[0], receive_hwm=10) as client:
        publisher.wait_for_subscriptions(1, 5)
        client.receive(0.2)
        for number in range(20_000):
            publisher.publish(TOPIC, say(number))
        seen: list[int] = []
        while not seen or seen[-1] < 20_000:
            event = client.receive(5)
            assert isinstance(event, StreamState | Gap)
            seen += [event.seq] if isinstance(event, StreamState) else range(event.first, event.last + 1)
    publisher.close()
    assert seen == list(range(1, 20_001))


def test_close_when_messages_wait_sends_them_and_a_last_heartbeat(listener: Listener) -> None:
    publisher = Publisher(PublishConfig(bind=(ANY_PORT,)), listener)
    listener.start()
    publisher.start()
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.subscribe(messages.PREFIX)
        subscriber.connect(publisher.endpoints[0])
        assert publisher.wait_for_subscriptions(1, 5)
        publisher.publish(TOPIC, say(0))
        publisher.close()
        published: list[object] = []
        while not any(isinstance(m, messages.Heartbeat) and m.state == "stopping" for m in published):
            assert subscriber.poll(20_000), published
            published.append(messages.decode(subscriber.recv_multipart()[1]))
        assert not subscriber.poll(100)
    assert [m.seq for m in published if isinstance(m, StreamState)] == [1]
    last = published[-1]
    assert isinstance(last, messages.Heartbeat)
    assert last.topics == {TOPIC: 1}


def test_wait_for_subscriptions_when_a_subscriber_leaves_counts_it_out(publisher: Publisher) -> None:
    with Client(publisher.endpoints[0]):
        assert publisher.wait_for_subscriptions(1, 5)
        assert not publisher.wait_for_subscriptions(2, 0)
    until(lambda: not publisher.wait_for_subscriptions(1, 0))


@pytest.mark.parametrize("topic", ["", messages.PREFIX, messages.HEARTBEAT])
def test_publisher_when_heartbeats_are_rare_sends_one_to_who_has_just_come(
    topic: str, listener: Listener
) -> None:
    publisher = Publisher(PublishConfig(bind=(ANY_PORT,), heartbeat_ms=600_000, linger_ms=0), listener)
    listener.start()
    publisher.start()
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        until(lambda: publisher._beats)  # the first one has no subscriber yet
        subscriber.connect(publisher.endpoints[0])
        subscriber.subscribe(topic)
        assert subscriber.poll(20_000)
    publisher.close()


def test_subscriptions_when_one_subscribes_twice_to_the_same_counts_one(publisher: Publisher) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.connect(publisher.endpoints[0])
        for topic in (messages.DETECTIONS, messages.DETECTIONS, messages.HEARTBEAT):
            subscriber.subscribe(topic)
        assert subscriber.poll(5000)  # a heartbeat: the others are in force
        assert publisher.wait_for_subscriptions(1, 5)
        assert not publisher.wait_for_subscriptions(2, 0.2)
    until(lambda: not publisher.subscriptions)


def test_publisher_when_ipc_is_bound_lets_the_group_connect_and_no_other(
    tmp_path: Path, listener: Listener
) -> None:
    path = tmp_path / "detections"
    publisher = Publisher(PublishConfig(bind=(f"ipc://{path}", ANY_PORT)), listener)
    mode = path.stat().st_mode & 0o777
    publisher.close()
    assert mode == 0o660


def test_publisher_when_the_port_is_in_use_says_so(listener: Listener) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        endpoint = f"tcp://127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(EndpointError, match=r"in use[\s\S]*To fix: stop the process") as caught:
            Publisher(PublishConfig(bind=(endpoint,)), listener)
    assert endpoint in str(caught.value)
    assert caught.value.exit_code == 3


def test_publisher_when_another_process_serves_the_ipc_path_leaves_it_alone(
    tmp_path: Path, listener: Listener
) -> None:
    endpoint = f"ipc://{tmp_path}/detections"
    first = Publisher(PublishConfig(bind=(endpoint,)), listener)
    with pytest.raises(EndpointError, match="in use"):
        Publisher(PublishConfig(bind=(endpoint,)), listener)
    first.close()


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("ipc:///no/such/directory/x", "make the directory"),
        ("tcp://192.0.2.1:5561", "no such address"),
        ("tcp://127.0.0.1", "tcp://ADDRESS:PORT"),
        ("udp://x", "tcp://ADDRESS:PORT"),
    ],
)
def test_publisher_when_an_endpoint_is_none_names_it(
    endpoint: str, expected: str, listener: Listener
) -> None:
    with pytest.raises(EndpointError, match=expected) as caught:
        Publisher(PublishConfig(bind=(endpoint,)), listener)
    assert endpoint in str(caught.value)


def test_client_when_the_endpoint_is_none_names_it() -> None:
    with pytest.raises(EndpointError, match="nonsense"):
        Client("nonsense")


def test_client_needs_only_pyzmq_and_msgspec() -> None:
    heavy = ("numpy", "cv2", "av", "openvino")
    code = f"import sys, qzd_client.subscriber; print([m for m in {heavy} if m in sys.modules])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout == "[]\n"
