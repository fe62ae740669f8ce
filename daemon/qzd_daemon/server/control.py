"""The control socket: calls come in, each gets one answer, whatever it says.

Short calls are answered at once on the socket's thread; long ones (compiling, testing) go one after another
to a second thread, and one too many is answered `busy`.
"""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
import zmq

from qzd_client.requests import ErrorBody, ErrorReply, Reply, Request
from qzd_daemon.config.schema import ControlConfig
from qzd_daemon.transport.listener import Limits, Listener
from qzd_ext.errors import QzdError

__all__ = ["Control", "Operation"]

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 16 * 2**10
REPLIES_KEPT = 256  # for a caller that does not read
REQUESTS_KEPT = 64  # of one caller, before its connection is no longer read
LONG_CALLS = 8
BATCH = 64  # calls answered before replies of long ones are looked at
LINGER_MS = 500

Envelope = list[bytes]


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that can be asked for.

    Attributes
    ----------
    run : callable
        Takes the request, returns its result, raises QzdError.
    long : bool
        It takes longer than others shall wait.
    """

    run: Callable[[Request], object]
    long: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    envelope: Envelope
    request: Request
    operation: Operation


class Control:
    """Answers calls until it is closed.

    Parameters
    ----------
    config : ControlConfig
    listener : Listener
    operations : mapping
        By name.

    Attributes
    ----------
    endpoints : tuple of str
    refused : Counter
        Calls that were refused, by the fault's code.

    Raises
    ------
    EndpointError
        An endpoint cannot be bound.
    """

    def __init__(
        self, config: ControlConfig, listener: Listener, operations: Mapping[str, Operation]
    ) -> None:
        limits = Limits(MAX_REQUEST_BYTES, config.max_connections, REPLIES_KEPT, REQUESTS_KEPT)
        self._bound_socket = listener.open("control", zmq.ROUTER, config.bind, limits)
        self.endpoints = self._bound_socket.endpoints
        self.refused: collections.Counter[str] = collections.Counter()
        self._operations = operations
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(Request)
        self._long: queue.Queue[_Call | None] = queue.Queue(LONG_CALLS)
        self._pending: set[_Call] = set()  # long ones that are not answered; for the socket's thread alone
        self._done: collections.deque[tuple[_Call, Reply | ErrorReply]] = collections.deque()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="qzd-control")
        self._worker = threading.Thread(target=self._work, name="qzd-control-long", daemon=True)

    def start(self) -> None:
        """Begin to answer, if there is an endpoint."""
        if self.endpoints:
            self._worker.start()
            self._thread.start()

    def close(self) -> None:
        """Answer no more. A long call that runs is left to itself; whoever waits for one is told."""
        self._stopping = True
        self._bound_socket.wake()
        answered = False
        if self._thread.ident is not None:
            self._thread.join()
            answered = self._answer_the_last()
        with contextlib.suppress(queue.Full):
            self._long.put_nowait(None)
        self._bound_socket.close(LINGER_MS, answered=answered)

    def _answer_the_last(self) -> bool:
        """Whoever waits, or has just asked, is told that the daemon stops; whether there was one."""
        answered = bool(self._pending)
        self._send_done()
        for call in self._pending:
            text = f"the daemon stops; whether {call.request.op} was done is not known"
            self._send(call.envelope, _refusal(call.request.id, "stopping", text))
        for frames in self._bound_socket.unread():
            self._take(frames)
            answered = True
        return answered

    def _run(self) -> None:
        while not self._stopping:
            self._bound_socket.wait()
            self._send_done()
            with contextlib.suppress(zmq.Again):
                for _ in range(BATCH):
                    self._take(self._bound_socket.socket.recv_multipart(zmq.NOBLOCK))

    def _send_done(self) -> None:
        while self._done:
            call, answer = self._done.popleft()
            self._pending.discard(call)
            self._send(call.envelope, answer)

    def _take(self, frames: list[bytes]) -> None:
        """`[caller, JSON]` from a DEALER, `[caller, empty, JSON]` from a REQ."""
        split = 2 if len(frames) > 2 and not frames[1] else 1
        envelope, rest = frames[:split], frames[split:]
        if len(rest) != 1:
            text = f"a message of {len(rest)} frames. Wanted: one frame of JSON"
            self._send(envelope, _refusal(None, "bad_request", text))
            return
        try:
            request = self._decoder.decode(rest[0])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            text = f"{error}. Wanted: a call as docs/protocol.md has it"
            self._send(envelope, _refusal(_id_of(rest[0]), "bad_request", text))
            return
        self._call(envelope, request)

    def _call(self, envelope: Envelope, request: Request) -> None:
        operation = self._operations.get(request.op)
        if operation is None:
            text = f"there is no op {request.op!r}. Wanted: one of {', '.join(sorted(self._operations))}"
            self._send(envelope, _refusal(request.id, "unknown_op", text))
        elif self._stopping:
            text = f"the daemon stops; {request.op} was not done. To fix: ask again when it is back"
            self._send(envelope, _refusal(request.id, "stopping", text))
        elif not operation.long:
            self._send(envelope, _answer(request, operation))
        else:
            call = _Call(envelope, request, operation)
            try:
                self._long.put_nowait(call)
                self._pending.add(call)
            except queue.Full:
                text = f"{LONG_CALLS} calls wait already. To fix: ask again later"
                self._send(envelope, _refusal(request.id, "busy", text))

    def _work(self) -> None:
        """The thread of the long calls."""
        while (call := self._long.get()) is not None and not self._stopping:
            log.info("asked for %s of %r", call.request.op, call.request.model)
            self._done.append((call, _answer(call.request, call.operation)))
            self._bound_socket.wake()

    def _send(self, envelope: Envelope, answer: Reply | ErrorReply) -> None:
        """A caller that is gone, or does not read, gets nothing; ZeroMQ drops it."""
        if isinstance(answer, ErrorReply):
            self.refused[answer.error.code] += 1
        with contextlib.suppress(zmq.Again):
            self._bound_socket.socket.send_multipart([*envelope, self._encode(answer)], zmq.NOBLOCK)

    def _encode(self, answer: Reply | ErrorReply) -> bytes:
        try:
            return self._encoder.encode(answer)
        except UnicodeEncodeError:  # a path in Linux is bytes, and may be no UTF-8
            text = json.dumps(msgspec.to_builtins(answer), ensure_ascii=False)
            return text.encode("utf-8", "replace")


def _answer(request: Request, operation: Operation) -> Reply | ErrorReply:
    try:
        return Reply(request.id, True, operation.run(request))
    except QzdError as error:
        return _refusal(request.id, error.code, str(error))
    except Exception as error:  # one call must not end the service of the others
        log.exception("the call %s failed", request.op)
        return _refusal(request.id, "internal", f"{type(error).__name__}: {error}")


def _refusal(request: int | str | None, code: str, message: str) -> ErrorReply:
    return ErrorReply(request, False, ErrorBody(code, message))


class _Id(msgspec.Struct):
    id: int | str | None = None


def _id_of(payload: bytes) -> int | str | None:
    """The id of a call that is otherwise wrong."""
    try:
        return msgspec.json.decode(payload, type=_Id).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
