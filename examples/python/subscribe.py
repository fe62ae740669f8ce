"""Receive detections from qzd, and print what was lost.

python subscribe.py [ENDPOINT]
"""

from __future__ import annotations

import sys

from qzd_client import Client, Detections, Gap, Restarted, Stale, StreamState
from qzd_client.errors import QzdError


def main() -> None:
    """Print each event, until Ctrl-C."""
    endpoint = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5561"
    with Client(endpoint, max_age_s=2.0) as client:
        print("waiting for", endpoint, file=sys.stderr)
        for event in client:
            match event:
                case Detections(stream=stream, frame=frame, outcome="ok", classes=classes) if classes:
                    print(stream, frame, [(found.label, found.score) for found in classes])
                case Detections(stream=stream, frame=frame, outcome="ok", detections=boxes):
                    print(stream, frame, [(box.label, box.score, box.box) for box in boxes or ()])
                case Detections(stream=stream, frame=frame, reason=reason):
                    print(stream, frame, "nothing is known:", reason)
                case Stale(age_s=age):
                    print(f"too late to act on, {age:.1f} s old")
                case Gap(topic=topic):
                    print(event.lost, "messages of", topic, "were lost")
                case Restarted():
                    print("the daemon has restarted")
                case StreamState(stream=stream, state=state):
                    print(stream, "is", state)


if __name__ == "__main__":
    try:
        main()
    except QzdError as error:
        sys.exit(f"subscribe.py: {error}")
    except KeyboardInterrupt:
        pass
