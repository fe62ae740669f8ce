"""Queues of a model: the newest frame wins or none is lost, and each stream has its turn."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from qzd_daemon.engine.queues import WAITING_FRAMES, FairQueue, QueuedItem, StreamQueue
from support.waiting import until


def test_take_when_dropping_gives_the_newest_and_counts_the_others() -> None:
    fair_queue: FairQueue[int] = FairQueue()
    queue = StreamQueue(fair_queue, "drop")
    for item in range(5):
        queue.put(item)
    queued = fair_queue.take()
    assert queued is not None
    assert (queued.item, queued.dropped_before) == (4, 4)
    assert fair_queue.take() is None


def test_take_when_items_were_skipped_counts_them_once() -> None:
    fair_queue: FairQueue[int] = FairQueue()
    queue = StreamQueue(fair_queue, "drop")
    queue.skip()
    queue.put(1)
    first = fair_queue.take()
    queue.put(2)
    second = fair_queue.take()
    assert first is not None
    assert second is not None
    assert (first.dropped_before, second.dropped_before) == (1, 0)


def test_skip_when_an_item_waits_counts_for_the_next() -> None:
    fair_queue: FairQueue[int] = FairQueue()
    queue = StreamQueue(fair_queue, "drop")
    queue.put(1)
    queue.skip()
    first = fair_queue.take()
    queue.put(2)
    queue.skip(2)
    queue.put(3)
    second = fair_queue.take()
    assert first is not None
    assert second is not None
    assert (first.item, first.dropped_before) == (1, 0)
    assert (second.item, second.dropped_before) == (3, 4)


def test_wait_when_closed_or_woken_ends_and_leaves_what_waits() -> None:
    fair_queue: FairQueue[int] = FairQueue()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(fair_queue.wait)
        fair_queue.wake()
        assert waiting.result(20)
        waiting = pool.submit(fair_queue.wait)
        fair_queue.close()
        assert not waiting.result(20)
    assert fair_queue.take() is None
    StreamQueue(fair_queue, "drop").put(1)
    assert fair_queue.wait()
    assert fair_queue.take() is not None


def test_wait_finished_when_an_item_waits_or_was_taken_is_not_true_yet() -> None:
    fair_queue: FairQueue[int] = FairQueue()
    queue = StreamQueue(fair_queue, "wait")
    assert queue.wait_finished(0)
    queue.put(1)
    assert not queue.wait_finished(0)
    fair_queue.take()
    assert not queue.wait_finished(0)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(queue.wait_finished, 60)
        queue.finish()
        assert waiting.result(20)


def test_wait_finished_when_a_stop_closes_the_queue_ends() -> None:
    queue = StreamQueue(FairQueue[int](), "wait")
    stopping = threading.Event()
    queue.put(1)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(queue.wait_finished, 60, stopping.is_set)
        stopping.set()
        queue.close()
        assert not waiting.result(20)


def test_discard_when_an_item_waits_removes_it_once() -> None:
    fair_queue: FairQueue[object] = FairQueue()
    queue, item = StreamQueue(fair_queue, "wait"), object()
    queue.put(item)
    assert queue.discard(item)
    assert not queue.discard(item)
    assert queue.wait_finished(0)
    assert fair_queue.take() is None


def test_empty_takes_all_that_waits_of_one_stream_in_order() -> None:
    fair_queue: FairQueue[int] = FairQueue()
    queue, other = StreamQueue(fair_queue, "wait"), StreamQueue(fair_queue, "wait")
    for item in (1, 2):
        queue.put(item)
    other.put(3)
    assert [queued.item for queued in queue.empty()] == [1, 2]
    assert queue.empty() == []
    assert [queued.item for _ in range(2) if (queued := fair_queue.take())] == [3]


def test_put_when_waiting_blocks_until_there_is_room_and_loses_nothing() -> None:
    fair_queue: FairQueue[int] = FairQueue()
    queue = StreamQueue(fair_queue, "wait")
    producer = threading.Thread(target=lambda: [queue.put(i) for i in range(50)])
    producer.start()

    def take() -> QueuedItem[int] | None:
        assert fair_queue.wait()
        return fair_queue.take()

    taken = [until(take) for _ in range(50)]
    producer.join(5)
    assert [queued.item for queued in taken] == list(range(50))
    assert all(queued.dropped_before == 0 for queued in taken)


def test_close_when_a_put_blocks_lets_it_go_and_keeps_what_waits() -> None:
    fair_queue: FairQueue[int] = FairQueue()
    queue = StreamQueue(fair_queue, "wait")
    producer = threading.Thread(target=lambda: [queue.put(i) for i in range(WAITING_FRAMES + 1)])
    producer.start()
    until(lambda: fair_queue.ready)
    queue.close()
    producer.join(5)
    assert not producer.is_alive()
    taken = [queued.item for _ in range(WAITING_FRAMES) if (queued := fair_queue.take())]
    assert taken == list(range(WAITING_FRAMES))
    assert fair_queue.take() is None


def test_put_when_closed_takes_nothing_and_says_so() -> None:
    fair_queue: FairQueue[int] = FairQueue()
    queue = StreamQueue(fair_queue, "drop")
    queue.close()
    assert not queue.put(1)
    assert fair_queue.take() is None


def test_take_when_one_stream_is_busy_serves_the_others_in_turn() -> None:
    fair_queue: FairQueue[str] = FairQueue()
    busy, quiet, third = (StreamQueue(fair_queue, "wait") for _ in range(3))
    busy.put("busy 1")
    busy.put("busy 2")
    quiet.put("quiet")
    third.put("third")
    taken = [queued.item for _ in range(4) if (queued := fair_queue.take())]
    assert taken == ["busy 1", "quiet", "third", "busy 2"]


def test_take_when_a_quiet_stream_comes_back_serves_it_before_busy_ones() -> None:
    fair_queue: FairQueue[str] = FairQueue()
    busy = [StreamQueue(fair_queue, "wait") for _ in range(3)]
    quiet = StreamQueue(fair_queue, "drop")
    quiet.put("quiet 1")
    for queue in busy:
        queue.put("busy")
    assert [queued.item for _ in range(4) if (queued := fair_queue.take())] == [
        "quiet 1",
        "busy",
        "busy",
        "busy",
    ]
    for queue in busy:
        queue.put("busy")
    quiet.put("quiet 2")
    queued = fair_queue.take()
    assert queued is not None
    assert queued.item == "quiet 2"
