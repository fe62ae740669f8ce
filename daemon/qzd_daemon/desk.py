"""Requests through one model: in turn with its streams, in any order among themselves, each answered once.

What may live here: the way of a request through the scheduler. Sockets are in `inference`.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from qzd_daemon import wire
from qzd_daemon.mailbox import Inbox, Mail, Mailbox
from qzd_daemon.models import Served
from qzd_daemon.pipeline import Unknown, Work, make_message
from qzd_daemon.sources import Captured
from qzd_ext.detector import Result
from qzd_ext.geometry import Frame

__all__ = ["Desk"]

Answer = Callable[[wire.Detections], None]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class _Asked(Work):
    """A frame with somebody who waits for what is in it."""

    answer: Answer


class Desk:
    """Where frames are handed in that belong to no stream.

    Parameters
    ----------
    inbox : Inbox
        The model's.
    """

    stream = "(a request)"

    def __init__(self, inbox: Inbox[Work]) -> None:
        self._mailbox: Mailbox[Work] = Mailbox(inbox, "wait", room=sys.maxsize)  # who asks keeps count

    def submit(self, frame: Frame, answer: Answer) -> Callable[[], object] | None:
        """Hand a frame in.

        Parameters
        ----------
        frame : (h, w, 3) uint8, BGR
        answer : callable
            Called once, from any thread, unless it is cancelled before its turn.

        Returns
        -------
        callable or None
            Cancels the request, as far as the model has not begun with it. None where the desk is closed: the
            model serves no more.
        """
        asked = _Asked(self, 0, Captured(frame), answer)
        if not self._mailbox.put(asked):
            return None
        waiting = weakref.ref(asked)  # `answer` may lead to what is returned: a ring would keep the frame
        return lambda: (still := waiting()) is not None and self._mailbox.discard(still)

    def close(self) -> None:
        """Take nothing more; what waits is still answered."""
        self._mailbox.close()

    def finish(self, mail: Mail[Work], served: Served, queue_ms: float, outcome: Result | Unknown) -> None:
        """Answer. Called by the scheduler, as `Lane.finish`."""
        asked = mail.item
        assert isinstance(asked, _Asked)
        asked.answer(make_message("", mail, served, queue_ms, outcome))
