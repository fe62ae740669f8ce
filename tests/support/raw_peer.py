"""A peer that speaks ZMTP 3 by hand, and sends what libzmq never would. Source: rfc.zeromq.org/spec/23."""

from __future__ import annotations

import socket

__all__ = ["RawPeer"]

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
MORE, LONG, COMMAND = 1, 2, 4


class RawPeer:
    """A connection that has finished its handshake without a key."""

    def __init__(self, endpoint: str, kind: str = "DEALER") -> None:
        scheme, _, address = endpoint.partition("://")
        host, _, port = address.rpartition(":")
        self.socket = socket.socket(socket.AF_UNIX if scheme == "ipc" else socket.AF_INET)
        self.socket.settimeout(1)
        ready = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind.encode()
        try:
            self.socket.connect(address if scheme == "ipc" else (host, int(port)))
            self.socket.sendall(GREETING + bytes((COMMAND, len(ready))) + ready)
        except OSError:
            self.socket.close()
            raise

    def send(self, content: bytes, *, more: bool = False, claimed: int | None = None) -> None:
        """Send a frame, which may claim another length than it has."""
        size = len(content) if claimed is None else claimed
        self.socket.sendall(bytes((LONG | (MORE if more else 0),)) + size.to_bytes(8, "big") + content)

    def close(self) -> None:
        self.socket.close()
