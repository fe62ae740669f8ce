"""Print when a person is at the gate, and when nobody is there any longer, with a hold-off against flicker.

python presence.py STREAM LABEL [ENDPOINT]

A person counts as present from the second frame in a row that shows one, and as gone when no frame has shown
one for HOLD_SECONDS. A frame that is not `ok` says nothing: it neither brings a person nor takes one away.
"""

from __future__ import annotations

import sys
import time

from qzd_client import Client, Detections
from qzd_client.errors import QzdError

MIN_SCORE = 0.6
FRAMES = 2
HOLD_SECONDS = 5.0


class Presence:
    """Decide from frame to frame whether somebody is there."""

    def __init__(self) -> None:
        self.present = False
        self._in_a_row = 0
        self._seen_s = 0.0

    def feed(self, found: bool, now_s: float) -> bool:
        """Take in an `ok` frame; returns whether `present` has changed."""
        self._in_a_row = self._in_a_row + 1 if found else 0
        if found:
            self._seen_s = now_s
        before = self.present
        if self._in_a_row >= FRAMES:
            self.present = True
        elif self.present and now_s - self._seen_s > HOLD_SECONDS:
            self.present = False
        return self.present != before


def main() -> None:
    """Print each change, until Ctrl-C."""
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: python presence.py STREAM LABEL [ENDPOINT]")
    stream, label = sys.argv[1:3]
    endpoint = sys.argv[3] if len(sys.argv) > 3 else "tcp://127.0.0.1:5561"
    presence = Presence()
    with Client(endpoint, streams=[stream]) as client:
        for event in client:
            if not isinstance(event, Detections) or event.outcome != "ok":
                continue
            found = any(box.label == label and box.score >= MIN_SCORE for box in event.detections or ())
            if presence.feed(found, event.captured_ns / 1e9):
                at = time.strftime("%H:%M:%S", time.localtime(event.captured_ns / 1e9))
                print(at, stream, label, "is there" if presence.present else "is gone", flush=True)


if __name__ == "__main__":
    try:
        main()
    except QzdError as error:
        sys.exit(f"presence.py: {error}")
    except KeyboardInterrupt:
        pass
