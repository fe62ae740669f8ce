"""What the clients of the daemon's ROUTER sockets share: send a request and wait for its reply."""

from __future__ import annotations

import contextlib
import time

import msgspec
import zmq

from qzd_client.closing import Closing
from qzd_client.connect import Keys, connect, milliseconds
from qzd_client.errors import EndpointError, GateError, QzdError, ResourceError, UsageError
from qzd_client.requests import ErrorBody

__all__ = ["REPLY_SECONDS", "RefusedError", "RequestClient", "wrong_socket"]

REPLY_SECONDS = 5.0
RECONNECT_SECONDS = 0.1  # libzmq keeps a closed connection a moment longer; a request sent to it is lost

USAGE_CODES = frozenset({"usage", "config", "unknown_model", "unknown_op", "bad_request"})


class RefusedError(ResourceError):
    """The daemon refuses a request or fails to do it.

    Parameters
    ----------
    fault : ErrorBody

    Attributes
    ----------
    fault : ErrorBody
        `fault.code` is for programs, `fault.message` for people.

    Examples
    --------
    >>> error = RefusedError(ErrorBody("busy", "8 calls wait already"))
    >>> error.fault.code, error.exit_code
    ('busy', 3)
    """

    code = "refused"

    def __init__(self, fault: ErrorBody) -> None:
        super().__init__(fault.message)
        self.fault = fault
        if fault.code == "gate":
            self.exit_code = GateError.exit_code
        elif fault.code in USAGE_CODES:
            self.exit_code = UsageError.exit_code


class RequestClient(Closing):
    """Own a DEALER socket that sends one request at a time. See `ControlClient` for the parameters."""

    def __init__(self, endpoint: str, keys: Keys | None, timeout: float) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        self._count = 0
        self._context = zmq.Context()
        try:
            dealer = self._context.socket(zmq.DEALER)
            dealer.setsockopt(zmq.IMMEDIATE, 1)  # what timed out is not sent when the daemon returns
            self._endings = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            self._poller = zmq.Poller()
            self._poller.register(dealer, zmq.POLLIN)
            self._poller.register(self._endings, zmq.POLLIN)
            self._socket = connect(dealer, endpoint, keys)
        except QzdError:
            self.close()
            raise

    def _exchange(self, frames: list[bytes | memoryview], end: float) -> list[bytes]:
        """Send a request and return the next reply."""
        while self._socket.poll(milliseconds(end), zmq.POLLOUT):
            while self._endings.poll(0):
                self._endings.recv_multipart()
            with contextlib.suppress(zmq.Again):  # the connection has just ended
                self._socket.send_multipart(frames, zmq.NOBLOCK)
                return self._receive(end)
        raise self._no_answer()

    def _send_image(self, header: msgspec.Struct, image: bytes | memoryview) -> bytes:
        """Send an image and return its reply's JSON. Skip late replies to requests that timed out."""
        self._count += 1
        name = str(self._count).encode()
        end = time.monotonic() + self._timeout
        frames = self._exchange([name, msgspec.json.encode(header), image], end)
        while len(frames) == 2 and frames[0] != name:
            frames = self._receive(end)
        if len(frames) != 2:
            raise wrong_socket(self._endpoint, "inference or ingest")
        return frames[1]

    def _receive(self, end: float) -> list[bytes]:
        ready = dict(self._poller.poll(milliseconds(end)))
        if self._socket in ready or (ready and self._socket.poll(0)):  # a reply came before the end did
            return self._socket.recv_multipart()
        if ready:
            time.sleep(RECONNECT_SECONDS)
            raise EndpointError(
                f"{self._endpoint}: the connection ended before the answer came",
                wanted="a daemon that keeps running, and a request within its limits",
                fix="check that qzd runs and read its log; it also closes connections that send too much",
            )
        raise self._no_answer()

    def _no_answer(self) -> EndpointError:
        return EndpointError(
            f"{self._endpoint}: no answer in {self._timeout:g} s",
            wanted="a running qzd that binds this endpoint",
            fix="start qzd, correct the endpoint, or give --key and --server-key if it asks for keys",
        )

    def close(self) -> None:
        """Close the socket. A request that is in progress is not cancelled."""
        self._context.destroy(linger=0)


def wrong_socket(endpoint: str, wanted: str) -> EndpointError:
    """Return the error that says that another kind of socket answers."""
    return EndpointError(
        f"{endpoint}: what answers is not the {wanted} socket",
        wanted=f"an endpoint that the daemon binds for {wanted}",
        fix="correct the endpoint; `qzdctl status` lists all of them",
    )
