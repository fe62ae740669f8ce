"""The asker's side of the control and inference sockets. Needs pyzmq and msgspec alone.

with Caller() as caller:
caller.call("swap", model="ssd", version="4")
"""

from __future__ import annotations

import contextlib
import time
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
import zmq

from qzd_client import messages
from qzd_client.connect import CONTROL, INFERENCE, Keys, connect, milliseconds
from qzd_client.errors import EndpointError, GateError, QzdError, ResourceError, UsageError
from qzd_client.requests import ErrorBody, ErrorReply, ImageError, ImageHeader, Reply, Request

__all__ = ["ControlClient", "InferenceClient", "RefusedError", "RequestClient"]

CALL_SECONDS = 5.0
ENDING_SECONDS = 0.1  # the next call would be lost in the old connection, which libzmq keeps a moment longer


class RefusedError(ResourceError):
    """The daemon has answered that it does not, or cannot.

    Parameters
    ----------
    fault : ErrorBody
    """

    code = "refused"

    def __init__(self, fault: ErrorBody) -> None:
        super().__init__(fault.message)
        self.fault = fault
        if fault.code == "gate":
            self.exit_code = GateError.exit_code
        elif fault.code in ("usage", "config", "unknown_model", "unknown_op", "bad_request"):
            self.exit_code = UsageError.exit_code


class RequestClient:
    """A DEALER socket; who asks waits for the answer with the right id. See `ControlClient`."""

    def __init__(self, endpoint: str, keys: Keys | None, timeout: float) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        self._count = 0
        self._context = zmq.Context()
        try:
            dealer = self._context.socket(zmq.DEALER)
            dealer.setsockopt(zmq.IMMEDIATE, 1)  # what was given up is not sent when the daemon comes back
            self._endings = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            self._poller = zmq.Poller()
            self._poller.register(dealer, zmq.POLLIN)
            self._poller.register(self._endings, zmq.POLLIN)
            self._socket = connect(dealer, endpoint, keys)
        except QzdError:
            self.close()
            raise

    def _exchange(self, frames: list[bytes | memoryview], end: float) -> list[bytes]:
        """Send, and wait for the next reply."""
        while self._socket.poll(milliseconds(end), zmq.POLLOUT):
            while self._endings.poll(0):
                self._endings.recv_multipart()
            with contextlib.suppress(zmq.Again):  # the connection ended just now
                self._socket.send_multipart(frames, zmq.NOBLOCK)
                return self._receive(end)
        raise self._no_answer()

    def _ask(self, header: msgspec.Struct, image: bytes | memoryview) -> bytes:
        """Send an image; returns the JSON of its reply. Replies to what was given up are passed over."""
        self._count += 1
        name = str(self._count).encode()
        end = time.monotonic() + self._timeout
        frames = self._exchange([name, msgspec.json.encode(header), image], end)
        while len(frames) == 2 and frames[0] != name:
            frames = self._receive(end)
        if len(frames) != 2:
            raise _other_socket(self._endpoint, "inference or ingest")
        return frames[1]

    def _receive(self, end: float) -> list[bytes]:
        ready = dict(self._poller.poll(milliseconds(end)))
        if self._socket in ready or (ready and self._socket.poll(0)):  # it came, and then the end
            return self._socket.recv_multipart()
        if ready:
            time.sleep(ENDING_SECONDS)
            raise EndpointError(
                f"{self._endpoint}: the connection ended before the answer came",
                wanted="a daemon that runs on, and takes what is sent",
                fix="see its log and whether it runs; what is larger than its limits ends a connection too",
            )
        raise self._no_answer()

    def _no_answer(self) -> EndpointError:
        return EndpointError(
            f"{self._endpoint}: no answer in {self._timeout:g} s",
            wanted="a running qzd that binds this endpoint",
            fix="start qzd, correct the endpoint, or give --key and --server-key if it asks for keys",
        )

    def close(self) -> None:
        """Let go of the socket."""
        self._context.destroy(linger=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ControlClient(RequestClient):
    """Calls the control socket.

    Parameters
    ----------
    endpoint : str
        One of the daemon's `[control] bind`.
    keys : Keys, optional
        For a TCP endpoint with CURVE.
    timeout : float
        Seconds to wait for an answer.

    Raises
    ------
    EndpointError
        The endpoint is not one.
    DataError
        A key cannot be used.
    """

    def __init__(
        self, endpoint: str = CONTROL, *, keys: Keys | None = None, timeout: float = CALL_SECONDS
    ) -> None:
        super().__init__(endpoint, keys, timeout)

    def call(self, op: str, **arguments: str | None) -> Any:
        """Ask for something, and wait for it.

        Parameters
        ----------
        op : str
        **arguments
            As `calls.Request` names them.

        Returns
        -------
        object
            The result, of JSON's types.

        Raises
        ------
        RefusedError
            The daemon's answer is no.
        EndpointError
            There is no answer.
        """
        self._count += 1
        end = time.monotonic() + self._timeout
        frames = self._exchange([msgspec.json.encode(Request(id=self._count, op=op, **arguments))], end)
        while True:
            reply = self._read(frames)
            if reply["id"] == self._count:
                break
            frames = self._receive(end)  # that one was given up before
        if reply["ok"]:
            return msgspec.convert(reply, Reply).result
        raise RefusedError(msgspec.convert(reply, ErrorReply).error)

    def _read(self, frames: list[bytes]) -> dict[str, Any]:
        with contextlib.suppress(msgspec.DecodeError):
            reply = msgspec.json.decode(frames[0])
            if len(frames) == 1 and isinstance(reply, dict) and {"id", "ok"} <= reply.keys():
                return reply
        raise _other_socket(self._endpoint, "control")


class InferenceClient(RequestClient):
    """Asks the inference socket what is in images; parameters and errors as `ControlClient`."""

    def __init__(
        self, endpoint: str = INFERENCE, *, keys: Keys | None = None, timeout: float = 2 * CALL_SECONDS
    ) -> None:
        super().__init__(endpoint, keys, timeout)

    def infer(
        self,
        image: bytes,
        form: Literal["jpeg", "png", "bgr"],
        *,
        model: str | None = None,
        size: tuple[int, int] | None = None,
    ) -> messages.Detections:
        """What is in one image.

        Parameters
        ----------
        image : bytes
            A JPEG or PNG file, or rows of BGR pixels.
        form : "jpeg", "png" or "bgr"
        model : str, optional
            May be left out where the daemon has only one.
        size : (width, height), optional
            For bgr.

        Raises
        ------
        RefusedError
            The daemon's answer is no, for example busy.
        EndpointError
            There is no answer.
        """
        width, height = size or (None, None)
        header = ImageHeader(model=model, format=form, width=width, height=height)
        reply = msgspec.json.decode(self._ask(header, image), type=messages.Detections | ImageError)
        if isinstance(reply, ImageError):
            raise RefusedError(reply.error)
        return reply


def _other_socket(endpoint: str, wanted: str) -> EndpointError:
    return EndpointError(
        f"{endpoint}: what answers there is no {wanted} socket",
        wanted=f"an endpoint that the daemon binds for {wanted}",
        fix="correct the endpoint; `qzdctl status` lists all of them",
    )
