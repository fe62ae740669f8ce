"""The tracker reports each missing message once, and none that was sent before it began."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qzd_client import messages
from qzd_client.events import Event, Gap, Restarted, StreamState, Tracker

TOPIC = messages.stream_topic("gate")
OTHER = messages.stream_topic("yard")


def state(seq: int, epoch: str = "a") -> bytes:
    return messages.encode(StreamState(stream="gate", state="running", epoch=epoch, seq=seq))


def beat(topics: dict[str, int], epoch: str = "a") -> bytes:
    return messages.encode(messages.Heartbeat(state="serving", interval_ms=1000, topics=topics, epoch=epoch))


def gaps(events: list[Event]) -> list[Gap]:
    return [e for e in events if isinstance(e, Gap)]


def test_feed_when_joining_late_reports_no_loss() -> None:
    assert gaps(Tracker().feed(TOPIC, state(7))) == []


def test_feed_when_messages_follow_each_other_reports_no_loss() -> None:
    tracker = Tracker()
    assert [gaps(tracker.feed(TOPIC, state(seq))) for seq in (7, 8, 9)] == [[], [], []]


def test_feed_when_a_message_is_missing_reports_it_before_the_next() -> None:
    tracker = Tracker()
    tracker.feed(TOPIC, state(7))
    gap, message = tracker.feed(TOPIC, state(10))
    assert gap == Gap(TOPIC, 8, 9)
    assert gap.lost == 2
    assert isinstance(message, StreamState)


def test_feed_when_the_tail_is_missing_reports_it_at_the_heartbeat_and_never_again() -> None:
    tracker = Tracker()
    tracker.feed(TOPIC, state(1))
    assert tracker.feed(messages.HEARTBEAT, beat({TOPIC: 3})) == [Gap(TOPIC, 2, 3)]
    assert tracker.feed(messages.HEARTBEAT, beat({TOPIC: 3})) == []
    assert gaps(tracker.feed(TOPIC, state(4))) == []


def test_feed_when_a_topic_begins_after_a_heartbeat_knows_its_first_message() -> None:
    tracker = Tracker()
    tracker.feed(messages.HEARTBEAT, beat({OTHER: 4}))
    assert gaps(tracker.feed(OTHER, state(5))) == []
    assert gaps(tracker.feed(TOPIC, state(3))) == [Gap(TOPIC, 1, 2)]


def test_feed_when_a_topic_is_not_subscribed_to_ignores_its_count() -> None:
    tracker = Tracker(lambda topic: topic == TOPIC)
    tracker.feed(messages.HEARTBEAT, beat({OTHER: 4}))
    assert tracker.feed(messages.HEARTBEAT, beat({OTHER: 9})) == []


def test_feed_when_the_daemon_restarts_says_so_and_counts_from_one() -> None:
    tracker = Tracker()
    tracker.feed(TOPIC, state(50))
    assert tracker.feed(TOPIC, state(3, "b"))[:2] == [Restarted("a", "b"), Gap(TOPIC, 1, 2)]


def test_feed_when_fields_are_unknown_ignores_them() -> None:
    message = msgspec.json.decode(state(1)) | {"added_later": {"x": 1}}
    assert len(Tracker().feed(TOPIC, msgspec.json.encode(message))) == 1


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b'{"schema": "qzd.stream/2"}', b'{"seq": 1}', b"\xff"])
def test_feed_when_the_message_is_not_ours_raises(payload: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        Tracker().feed(TOPIC, payload)


@given(st.lists(st.booleans(), max_size=60), st.sets(st.integers(0, 60)))
def test_feed_whatever_is_lost_counts_every_loss_exactly_once(arrives: list[bool], beats: set[int]) -> None:
    tracker = Tracker()
    tracker.feed(messages.HEARTBEAT, beat({}))
    events: list[Event] = []
    for index, received in enumerate(arrives):
        if received:
            events += tracker.feed(TOPIC, state(index + 1))
        if index in beats:
            events += tracker.feed(messages.HEARTBEAT, beat({TOPIC: index + 1}))
    events += tracker.feed(messages.HEARTBEAT, beat({TOPIC: len(arrives)}))
    missing = [seq for gap in gaps(events) for seq in range(gap.first, gap.last + 1)]
    assert missing == [index + 1 for index, received in enumerate(arrives) if not received]


def test_feed_a_message_of_an_unknown_kind_counts_it_and_says_nothing() -> None:
    other = state(8).replace(b"qzd.stream/1", b"qzd.weather/1")
    tracker = Tracker()
    tracker.feed(TOPIC, state(7))
    assert tracker.feed(TOPIC, other) == []
    assert gaps(tracker.feed(TOPIC, state(9))) == []
    assert tracker.join("b", [(TOPIC, other)]) == []


@pytest.mark.parametrize(
    "bad", [b"{}", b"[]", b"7", state(1).replace(b'"running"', b"7"), b'{"schema":"x"}', b"\xff"]
)
def test_feed_what_is_no_message_is_an_error(bad: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        Tracker().feed(TOPIC, bad)
