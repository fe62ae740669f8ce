"""A subscription fed message by message: a snapshot, restarts, age, and what is not a message."""

from __future__ import annotations

import msgspec
import pytest

from qzd_client import messages, subscription
from qzd_client.errors import EndpointError, UsageError
from qzd_client.events import Detections, Gap, Stale
from qzd_client.requests import Snapshot, SnapshotEntry
from qzd_client.subscriber import Client
from qzd_client.subscription import ATTEMPTS, Subscription

TOPIC_M = messages.detections_topic("gate", "m")


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


def frames(seq: int, epoch: str = "e1") -> list[bytes]:
    return [TOPIC_M.encode(), message(seq, epoch=epoch)]


def told(joining: Subscription) -> list[object]:
    return [e.seq if isinstance(e, Detections) else e for e in joining.events]


def test_subscription_when_it_joins_leaves_out_what_the_snapshot_holds() -> None:
    joining = Subscription((), None, snapshot=True)
    for seq in (3, 4):
        assert joining.feed(frames(seq)) is None
    assert joining.feed(heartbeat()) is not None
    joining.feed(frames(5))
    joining.feed(frames(6))
    assert not joining.events
    joining.join(reply("e1", 5))
    joining.feed(frames(7))
    assert told(joining) == [5, 6, 7]


def test_subscription_when_something_is_lost_between_snapshot_and_stream_reports_it() -> None:
    joining = Subscription((), None, snapshot=True)
    joining.feed(heartbeat())
    joining.join(reply("e1", 5))
    joining.feed(frames(8))
    assert told(joining) == [5, Gap(TOPIC_M, 6, 7), 8]


def test_subscription_when_the_daemon_restarts_while_it_joins_asks_again() -> None:
    joining = Subscription((), None, snapshot=True)
    joining.feed(frames(9))
    joining.feed(heartbeat())
    joining.feed(frames(1, "e2"))
    assert joining.feed(heartbeat("e2")) is not None
    joining.join(reply("e1", 9))
    assert not joining.events
    joining.join(reply("e2", 1, number=2))
    assert told(joining) == [1]


def test_subscription_when_the_daemon_answers_what_was_asked_of_the_one_before_waits_for_its_own() -> None:
    joining = Subscription((), None, snapshot=True)
    joining.feed(heartbeat())
    joining.feed(heartbeat("e2"))
    joining.join(reply("e2", 1))
    assert not joining.events
    joining.join(reply("e2", 3, number=2))
    assert told(joining) == [3]


def test_subscription_when_no_snapshot_comes_gives_up_after_some_heartbeats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subscription, "PAUSE_SECONDS", 0.0)
    joining = Subscription((), None, snapshot=True)
    for _ in range(ATTEMPTS):
        assert joining.feed(heartbeat()) is not None
    with pytest.raises(EndpointError):
        joining.feed(heartbeat())


def test_subscription_when_heartbeats_are_faster_than_the_answer_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subscription, "PAUSE_SECONDS", 60.0)
    joining = Subscription((), None, snapshot=True)
    assert [joining.feed(heartbeat()) is not None for _ in range(4 * ATTEMPTS)].count(True) == 1
    joining.join(reply("e1", 5))
    assert told(joining) == [5]


def refusal(code: str, number: int = 1) -> bytes:
    return msgspec.json.encode({"id": number, "ok": False, "error": {"code": code, "message": "no"}})


def test_subscription_when_the_daemon_stops_while_it_joins_asks_the_next_run() -> None:
    joining = Subscription((), None, snapshot=True)
    joining.feed(heartbeat())
    joining.join(refusal("stopping"))
    assert joining.feed(heartbeat("e2")) is not None
    joining.join(reply("e2", 1, number=2))
    assert told(joining) == [1]


def test_subscription_when_a_refusal_comes_after_the_snapshot_passes_it_over() -> None:
    joining = Subscription((), None, snapshot=True)
    joining.feed(heartbeat())
    joining.join(reply("e1", 5))
    joining.join(refusal("internal", 2))
    assert told(joining) == [5]


def test_client_when_streams_is_one_name_says_how_to_write_it() -> None:
    with pytest.raises(UsageError, match=r"write streams=\['gate'\]"):
        Client(streams="gate")


def test_subscription_when_the_snapshot_is_refused_says_why() -> None:
    joining = Subscription((), None, snapshot=True)
    joining.feed(heartbeat())
    refusal = {"id": 1, "ok": False, "error": {"code": "unknown_op", "message": "there is no op 'snapshot'"}}
    with pytest.raises(EndpointError, match="no op 'snapshot'"):
        joining.join(msgspec.json.encode(refusal))


@pytest.mark.parametrize(("published_ns", "stale"), [(0, True), (2**63 - 1, False)])
def test_subscription_when_a_message_is_old_makes_it_stale(published_ns: int, stale: bool) -> None:
    joining = Subscription((), 1.0, snapshot=False)
    joining.feed([TOPIC_M.encode(), message(1, published_ns)])
    (event,) = joining.events
    assert isinstance(event, Stale) == stale


@pytest.mark.parametrize("bad", [[b"x"], [b"t", b"{}"], [b"t", b"x", b"y"], [b"t", b'{"schema":"x"}']])
def test_subscription_when_it_is_not_of_this_protocol_says_so(bad: list[bytes]) -> None:
    with pytest.raises(msgspec.DecodeError):
        Subscription((), None, snapshot=False).feed(bad)
