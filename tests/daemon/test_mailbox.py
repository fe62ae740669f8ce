"""What waits for a model: newest wins or nobody is lost, and everyone has a turn."""

from __future__ import annotations

import threading
import time

from qzd_daemon.mailbox import WAITING_FRAMES, Inbox, Mailbox


def test_take_when_dropping_gives_the_newest_and_counts_the_others() -> None:
    inbox: Inbox[int] = Inbox()
    mailbox = Mailbox(inbox, "drop")
    for item in range(5):
        mailbox.put(item)
    mail = inbox.take()
    assert mail is not None
    assert (mail.item, mail.dropped_before) == (4, 4)
    assert inbox.take() is None


def test_take_when_items_were_skipped_counts_them_once() -> None:
    inbox: Inbox[int] = Inbox()
    mailbox = Mailbox(inbox, "drop")
    mailbox.skip()
    mailbox.put(1)
    first = inbox.take()
    mailbox.put(2)
    second = inbox.take()
    assert first is not None
    assert second is not None
    assert (first.dropped_before, second.dropped_before) == (1, 0)


def test_skip_when_an_item_waits_counts_for_the_next() -> None:
    inbox: Inbox[int] = Inbox()
    mailbox = Mailbox(inbox, "drop")
    mailbox.put(1)
    mailbox.skip()
    first = inbox.take()
    mailbox.put(2)
    mailbox.skip(2)
    mailbox.put(3)
    second = inbox.take()
    assert first is not None
    assert second is not None
    assert (first.item, first.dropped_before, first.order) == (1, 0, 0)
    assert (second.item, second.dropped_before, second.order) == (3, 4, 1)


def test_close_of_the_inbox_ends_every_wait_and_leaves_what_is_there() -> None:
    inbox: Inbox[int] = Inbox()
    waiting = threading.Thread(target=lambda: inbox.wait(60))
    waiting.start()
    inbox.close()
    waiting.join(20)
    assert not waiting.is_alive()
    assert inbox.take() is None
    Mailbox(inbox, "drop").put(1)
    assert inbox.take() is not None


def test_empty_takes_all_that_waits_of_one_stream_in_order() -> None:
    inbox: Inbox[int] = Inbox()
    mailbox, other = Mailbox(inbox, "wait"), Mailbox(inbox, "wait")
    for item in (1, 2):
        mailbox.put(item)
    other.put(3)
    assert [(mail.item, mail.order) for mail in mailbox.empty()] == [(1, 0), (2, 1)]
    assert mailbox.empty() == []
    assert [mail.item for _ in range(2) if (mail := inbox.take())] == [3]


def test_put_when_waiting_blocks_until_there_is_room_and_loses_nothing() -> None:
    inbox: Inbox[int] = Inbox()
    mailbox = Mailbox(inbox, "wait")
    producer = threading.Thread(target=lambda: [mailbox.put(i) for i in range(50)])
    producer.start()
    taken = []
    while len(taken) < 50:
        inbox.wait(5)
        taken.append(inbox.take())
    producer.join(5)
    assert [mail.item for mail in taken if mail] == list(range(50))
    assert all(mail.dropped_before == 0 for mail in taken if mail)


def test_close_when_a_put_blocks_lets_it_go_and_keeps_what_waits() -> None:
    inbox: Inbox[int] = Inbox()
    mailbox = Mailbox(inbox, "wait")
    producer = threading.Thread(target=lambda: [mailbox.put(i) for i in range(WAITING_FRAMES + 1)])
    producer.start()
    while not inbox.ready:
        time.sleep(0.001)
    mailbox.close()
    producer.join(5)
    assert not producer.is_alive()
    taken = [mail.item for _ in range(WAITING_FRAMES) if (mail := inbox.take())]
    assert taken == list(range(WAITING_FRAMES))
    assert inbox.take() is None


def test_put_when_closed_takes_nothing_and_says_so() -> None:
    inbox: Inbox[int] = Inbox()
    mailbox = Mailbox(inbox, "drop")
    mailbox.close()
    assert not mailbox.put(1)
    assert inbox.take() is None


def test_take_when_one_stream_is_busy_serves_the_others_in_turn() -> None:
    inbox: Inbox[str] = Inbox()
    busy, quiet, third = (Mailbox(inbox, "wait") for _ in range(3))
    busy.put("busy 1")
    busy.put("busy 2")
    quiet.put("quiet")
    third.put("third")
    taken = [mail.item for _ in range(4) if (mail := inbox.take())]
    assert taken == ["busy 1", "quiet", "third", "busy 2"]


def test_take_when_a_quiet_stream_comes_back_serves_it_before_busy_ones() -> None:
    inbox: Inbox[str] = Inbox()
    busy = [Mailbox(inbox, "wait") for _ in range(3)]
    quiet = Mailbox(inbox, "drop")
    quiet.put("quiet 1")
    for mailbox in busy:
        mailbox.put("busy")
    assert [mail.item for _ in range(4) if (mail := inbox.take())] == ["quiet 1", "busy", "busy", "busy"]
    for mailbox in busy:
        mailbox.put("busy")
    quiet.put("quiet 2")
    mail = inbox.take()
    assert mail is not None
    assert mail.item == "quiet 2"
