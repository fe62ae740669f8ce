"""Ask qzd what is in an image, with asyncio and plain pyzmq, as any language with libzmq can.

python infer.py IMAGE [ENDPOINT]
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

FORMATS = {b"\xff\xd8": "jpeg", b"\x89P": "png"}
ANSWER_SECONDS = 5


async def ask(image: bytes, form: str, endpoint: str) -> dict[str, Any]:
    """Send one request and return its reply."""
    with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(endpoint)
        header = {"schema": "qzd.inference/1", "format": form, "timeout_ms": 2000}
        await dealer.send_multipart([b"1", json.dumps(header).encode(), image])
        _, reply = await asyncio.wait_for(dealer.recv_multipart(), ANSWER_SECONDS)
        return dict(json.loads(reply))


def main() -> None:
    """Print the reply; exit with 1 if there is none, or if it is a refusal."""
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python infer.py IMAGE [ENDPOINT]")
    endpoint = sys.argv[2] if len(sys.argv) > 2 else "ipc:///run/qzd/inference"
    try:
        image = Path(sys.argv[1]).read_bytes()
    except OSError as error:
        sys.exit(f"infer.py: {sys.argv[1]}: {error.strerror}")
    form = FORMATS.get(image[:2])
    if form is None:
        sys.exit(f"infer.py: {sys.argv[1]}: neither JPEG nor PNG")
    try:
        reply = asyncio.run(ask(image, form, endpoint))
    except TimeoutError:
        sys.exit(
            f"infer.py: {endpoint}: no answer in {ANSWER_SECONDS} s; does qzd run, with [inference] bind?"
        )
    except zmq.ZMQError as error:
        sys.exit(f"infer.py: {endpoint}: {error}")
    print(json.dumps(reply, indent=2))
    if "error" in reply:
        sys.exit(1)


if __name__ == "__main__":
    main()
