"""Clients on a real publisher and a real control socket: joining, age, asyncio, and bad snapshots."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from qzd_client import messages, subscription
from qzd_client.requests import Snapshot, SnapshotEntry
from qzd_client.subscriber import AsyncClient, Client, Detections, Event, Gap, Stale, StreamState
from qzd_client.subscription import ATTEMPTS, Session
from qzd_daemon.config.schema import ControlConfig, PublishConfig
from qzd_daemon.ctl import tail
from qzd_daemon.server.control import Control, Operation
from qzd_daemon.server.publisher import Publisher
from qzd_daemon.transport.listener import Listener
from qzd_ext.errors import EndpointError, UsageError
from support.processes import wait_until_heard

TOPIC = messages.stream_topic("gate")


class Service:
    """A publisher with a control socket that knows `snapshot` alone."""

    def __init__(self, directory: Path) -> None:
        self.listener = Listener()
        config = PublishConfig(bind=(f"ipc://{directory}/detections",), heartbeat_ms=50, linger_ms=0)
        self.publisher = Publisher(config, self.listener)
        operations = {"snapshot": Operation(lambda _: self.snapshot())}
        self.control = Control(ControlConfig((f"ipc://{directory}/control",)), self.listener, operations)
        for part in (self.listener, self.publisher, self.control):
            part.start()
        (self.endpoint,), (self.control_endpoint,) = self.publisher.endpoints, self.control.endpoints

    def snapshot(self) -> Snapshot:
        last = dict(self.publisher.last)
        return Snapshot(self.publisher.epoch, [SnapshotEntry(t, msgspec.Raw(m)) for t, m in last.items()])

    def say(self, number: int, stream: str = "gate") -> None:
        message = StreamState(stream=stream, state="running", frames=number)
        self.publisher.publish(messages.stream_topic(stream), message)

    def close(self) -> None:
        self.control.close()
        self.publisher.close()
        self.listener.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.close()


@pytest.fixture
def chatter(service: Service) -> Iterator[None]:
    """Messages all the time, so that joining happens in their midst."""
    stopping = threading.Event()

    def talk() -> None:
        for number in itertools.count():
            service.say(number)
            if stopping.wait(0.0005):
                return

    thread = threading.Thread(target=talk)
    thread.start()
    yield
    stopping.set()
    thread.join()


def seqs(events: list[Event | None]) -> list[int]:
    assert all(isinstance(event, StreamState) for event in events), events
    return [event.seq for event in events if isinstance(event, StreamState)]


@pytest.mark.usefixtures("chatter")
def test_client_when_it_joins_in_the_midst_has_neither_hole_nor_double(service: Service) -> None:
    for _ in range(10):
        with Client(service.endpoint, control=service.control_endpoint) as client:
            numbers = seqs([client.receive(5) for _ in range(50)])
        assert numbers == list(range(numbers[0], numbers[0] + 50))


def test_client_when_it_joins_late_knows_the_last_of_each_topic(service: Service) -> None:
    for stream in ("gate", "yard"):
        for number in range(3):
            service.say(number, stream)
    with Client(service.endpoint, control=service.control_endpoint) as client:
        events = [client.receive(5), client.receive(5)]
        assert client.receive(0.2) is None
    assert {(e.stream, e.seq) for e in events if isinstance(e, StreamState)} == {("gate", 3), ("yard", 3)}


def test_client_when_it_wants_one_stream_joins_with_that_alone(service: Service) -> None:
    service.say(1, "gate")
    service.say(1, "gate2")
    with Client(service.endpoint, control=service.control_endpoint, streams=["gate"]) as client:
        event = client.receive(math.inf)
        assert isinstance(event, StreamState)
        assert (event.stream, client.receive(0.2)) == ("gate", None)


def test_client_when_the_control_endpoint_never_answers_says_so(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "PAUSE_SECONDS", 0.0)
    client = Client(service.endpoint, control=f"ipc://{tmp_path}/nobody")
    with client, pytest.raises(EndpointError, match="has not answered"):
        client.receive(10)


def test_tail_when_heartbeats_are_rare_does_not_take_that_for_silence(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tail, "SILENCE_SECONDS", 0.01)  # shorter than the time between two heartbeats
    with Client(service.endpoint) as client:
        wait_until_heard(client)
        threading.Timer(0.3, service.say, (1,)).start()
        assert isinstance(next(tail._events(client, service.endpoint)), StreamState)
    assert "nothing is received" not in capsys.readouterr().err


def test_tail_when_a_reason_would_steer_the_terminal_shows_it_in_one_line() -> None:
    state = StreamState(stream="gate", state="failed", reason="café\n\x1b[2J.png")
    assert click.unstyle(tail._text_line(state)) == r"-- stream gate failed: café\n\x1b[2J.png"


def test_tail_when_a_state_was_lost_tells_it_once_among_the_rates(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tail, "RATE_SECONDS", 0.0)
    monkeypatch.setattr(tail, "_tick", lambda *_: iter([Gap(TOPIC, 1, 1), Gap(TOPIC_M, 1, 2), None]))
    with Client(service.endpoint) as client:
        tail._print_rates(client, service.endpoint, tail._Filter((), (), 0.0, found=False))
    told = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert told == [f"{TOPIC.rstrip('/')}:", "gate/m:", "gate/m:"]


def test_async_client_when_it_joins_has_neither_hole_nor_double(service: Service, chatter: None) -> None:
    async def receive() -> list[Event | None]:
        async with AsyncClient(service.endpoint, control=service.control_endpoint) as client:
            return [await client.receive(5) for _ in range(100)]

    numbers = seqs(asyncio.run(receive()))
    assert numbers == list(range(numbers[0], numbers[0] + 100))


def test_async_client_when_nothing_comes_gives_none_and_loses_nothing(service: Service) -> None:
    async def receive() -> list[Event | None]:
        async with AsyncClient(service.endpoint) as client:
            nothing = await client.receive(0.3)
            service.say(1)
            async for event in client:
                return [nothing, event]
        return []

    nothing, event = asyncio.run(receive())
    assert nothing is None
    assert isinstance(event, StreamState)


def test_async_client_when_there_is_no_time_takes_what_is_there(service: Service) -> None:
    async def receive() -> list[Event | None]:
        async with AsyncClient(service.endpoint) as client:
            await client.receive(0.3)
            service.say(1)
            service.say(2)
            await asyncio.sleep(0.3)
            return [await client.receive(0) for _ in range(3)]

    *heard, nothing = asyncio.run(receive())
    assert all(isinstance(event, StreamState) for event in heard)
    assert nothing is None


def message(seq: int, published_ns: int = 0, epoch: str = "e1") -> bytes:
    return messages.encode(
        Detections(
            epoch=epoch,
            seq=seq,
            published_ns=published_ns,
            stream="gate",
            frame=seq,
            captured_ns=0,
            width=1,
            height=1,
            outcome="ok",
            model=messages.ModelInfo("m", "1", "sha256:", "int8", "CPU"),
            timing_ms=messages.StageTimes(0, 0, 0, 0),
            thresholds=messages.UsedThresholds(0.5, 0.5),
            detections=[],
        )
    )


def heartbeat(epoch: str = "e1", **topics: int) -> list[bytes]:
    beat = messages.Heartbeat(epoch=epoch, seq=1, state="serving", interval_ms=1, topics=topics)
    return [messages.HEARTBEAT.encode(), messages.encode(beat)]


def reply(epoch: str, *seqs: int, number: int = 1) -> bytes:
    entries = [SnapshotEntry(TOPIC_M, msgspec.Raw(message(seq, epoch=epoch))) for seq in seqs]
    return msgspec.json.encode({"id": number, "ok": True, "result": Snapshot(epoch, entries)})


TOPIC_M = messages.detections_topic("gate", "m")


def frames(seq: int, epoch: str = "e1") -> list[bytes]:
    return [TOPIC_M.encode(), message(seq, epoch=epoch)]


def told(session: Session) -> list[object]:
    return [e.seq if isinstance(e, Detections) else e for e in session.events]


def test_session_when_it_joins_leaves_out_what_the_snapshot_holds() -> None:
    session = Session((), None, snapshot=True)
    for seq in (3, 4):
        assert session.feed(frames(seq)) is None
    assert session.feed(heartbeat()) is not None
    session.feed(frames(5))
    session.feed(frames(6))
    assert not session.events
    session.join(reply("e1", 5))
    session.feed(frames(7))
    assert told(session) == [5, 6, 7]


def test_session_when_something_is_lost_between_snapshot_and_stream_reports_it() -> None:
    session = Session((), None, snapshot=True)
    session.feed(heartbeat())
    session.join(reply("e1", 5))
    session.feed(frames(8))
    assert told(session) == [5, Gap(TOPIC_M, 6, 7), 8]


def test_session_when_the_daemon_restarts_while_it_joins_asks_again() -> None:
    session = Session((), None, snapshot=True)
    session.feed(frames(9))
    session.feed(heartbeat())
    session.feed(frames(1, "e2"))
    assert session.feed(heartbeat("e2")) is not None
    session.join(reply("e1", 9))
    assert not session.events
    session.join(reply("e2", 1, number=2))
    assert told(session) == [1]


def test_session_when_the_daemon_answers_what_was_asked_of_the_one_before_waits_for_its_own() -> None:
    session = Session((), None, snapshot=True)
    session.feed(heartbeat())
    session.feed(heartbeat("e2"))
    session.join(reply("e2", 1))
    assert not session.events
    session.join(reply("e2", 3, number=2))
    assert told(session) == [3]


def test_session_when_no_snapshot_comes_gives_up_after_some_heartbeats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subscription, "PAUSE_SECONDS", 0.0)
    joining = Session((), None, snapshot=True)
    for _ in range(ATTEMPTS):
        assert joining.feed(heartbeat()) is not None
    with pytest.raises(EndpointError):
        joining.feed(heartbeat())


def test_session_when_heartbeats_are_faster_than_the_answer_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subscription, "PAUSE_SECONDS", 60.0)
    joining = Session((), None, snapshot=True)
    assert [joining.feed(heartbeat()) is not None for _ in range(4 * ATTEMPTS)].count(True) == 1
    joining.join(reply("e1", 5))
    assert told(joining) == [5]


def refusal(code: str, number: int = 1) -> bytes:
    return msgspec.json.encode({"id": number, "ok": False, "error": {"code": code, "message": "no"}})


def test_session_when_the_daemon_stops_while_it_joins_asks_the_next_run() -> None:
    joining = Session((), None, snapshot=True)
    joining.feed(heartbeat())
    joining.join(refusal("stopping"))
    assert joining.feed(heartbeat("e2")) is not None
    joining.join(reply("e2", 1, number=2))
    assert told(joining) == [1]


def test_session_when_a_refusal_comes_after_the_snapshot_passes_it_over() -> None:
    joining = Session((), None, snapshot=True)
    joining.feed(heartbeat())
    joining.join(reply("e1", 5))
    joining.join(refusal("internal", 2))
    assert told(joining) == [5]


def test_client_when_it_wants_more_streams_than_libzmq_keeps_subscriptions_hears(service: Service) -> None:
    service.say(1, "s1999")
    names = [f"s{number}" for number in range(2000)]
    with Client(service.endpoint, streams=names, control=service.control_endpoint) as client:
        assert isinstance(client.receive(20), StreamState)


def test_client_when_streams_is_one_name_says_how_to_write_it() -> None:
    with pytest.raises(UsageError, match=r"write streams=\['gate'\]"):
        Client(streams="gate")


def test_session_when_the_snapshot_is_refused_says_why() -> None:
    session = Session((), None, snapshot=True)
    session.feed(heartbeat())
    refusal = {"id": 1, "ok": False, "error": {"code": "unknown_op", "message": "there is no op 'snapshot'"}}
    with pytest.raises(EndpointError, match="no op 'snapshot'"):
        session.join(msgspec.json.encode(refusal))


@pytest.mark.parametrize(("published_ns", "stale"), [(0, True), (2**63 - 1, False)])
def test_session_when_a_message_is_old_makes_it_stale(published_ns: int, stale: bool) -> None:
    session = Session((), 1.0, snapshot=False)
    session.feed([TOPIC_M.encode(), message(1, published_ns)])
    (event,) = session.events
    assert isinstance(event, Stale) == stale


@pytest.mark.parametrize("bad", [[b"x"], [b"t", b"{}"], [b"t", b"x", b"y"], [b"t", b'{"schema":"x"}']])
def test_session_when_it_is_not_of_this_protocol_says_so(bad: list[bytes]) -> None:
    with pytest.raises(msgspec.DecodeError):
        Session((), None, snapshot=False).feed(bad)
