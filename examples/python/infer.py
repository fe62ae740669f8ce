"""Ask qzd what is in an image, with asyncio and plain pyzmq, as any language with libzmq can.

python infer.py IMAGE.jpg [ENDPOINT]
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import zmq
import zmq.asyncio


async def ask(image: bytes, endpoint: str) -> dict[str, object]:
    """Send one request and return its reply."""
    with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(endpoint)
        header = {"schema": "qzd.inference/1", "format": "jpeg", "timeout_ms": 2000}
        await dealer.send_multipart([b"1", json.dumps(header).encode(), image])
        _, reply = await asyncio.wait_for(dealer.recv_multipart(), 5)
        return json.loads(reply)


if __name__ == "__main__":
    endpoint = sys.argv[2] if len(sys.argv) > 2 else "ipc:///run/qzd/inference"
    print(asyncio.run(ask(Path(sys.argv[1]).read_bytes(), endpoint)))
