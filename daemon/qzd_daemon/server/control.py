"""The control socket: every call gets exactly one answer.

Short calls run on the socket's thread. Long ones (compiling, testing) run one after another on a second
thread; when too many wait, the next is answered `busy`. `operations` says what the calls do.
"""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import zmq

from qzd_client.messages import MAX_MESSAGE_BYTES
from qzd_client.requests import ErrorBody, ErrorReply, Reply, Request
from qzd_daemon.config.schema import ControlConfig
from qzd_daemon.server.router import Envelope, RouterLoop
from qzd_daemon.system.threads import NamedThread
from qzd_daemon.transport.listener import Limits, Listener
from qzd_ext.errors import QzdError

__all__ = ["Control", "Operation"]

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 16 * 2**10
REPLIES_KEPT = 256  # for a caller that does not read
REQUESTS_KEPT = 64  # of one caller, before its connection is no longer read
LONG_CALLS = 8


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that a caller can ask for.

    Attributes
    ----------
    run : callable
        Takes the request, returns its result, raises QzdError.
    long : bool
        It takes longer than other callers should wait.
    """

    run: Callable[[Request], object]
    long: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    envelope: Envelope
    request: Request
    operation: Operation


class Control(RouterLoop[_Call, Reply | ErrorReply]):
    """Answer calls until it is closed.

    A long call that runs while the socket closes is left to itself: its caller is told that the result is not
    known.

    Parameters
    ----------
    config : ControlConfig
    listener : Listener
    operations : mapping
        By name.

    Attributes
    ----------
    refused : Counter
        Calls that were refused, by the error's code.

    Raises
    ------
    EndpointError
        An endpoint cannot be bound.
    """

    message_frames = 1

    def __init__(
        self, config: ControlConfig, listener: Listener, operations: Mapping[str, Operation]
    ) -> None:
        limits = Limits(MAX_REQUEST_BYTES, config.max_connections, REPLIES_KEPT, REQUESTS_KEPT)
        super().__init__("control", config.bind, limits, listener)
        self.refused: collections.Counter[str] = collections.Counter()
        self._operations = operations
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(Request)
        self._long: queue.Queue[_Call | None] = queue.Queue(LONG_CALLS)
        self._worker = NamedThread("qzd-control-long", self._work)

    def start(self) -> None:
        """Start both threads, if there is an endpoint."""
        if self.endpoints:
            self._worker.start()
        super().start()

    def close(self) -> None:
        """Stop answering calls, and refuse the pending ones."""
        super().close()
        with contextlib.suppress(queue.Full):
            self._long.put_nowait(None)

    def _receive(self, envelope: Envelope, frames: Sequence[zmq.Frame]) -> None:
        if len(frames) != self.message_frames:
            text = f"a message of {len(frames)} frames. Wanted: one frame of JSON"
            self._send_answer(envelope, _refusal(None, "bad_request", text))
            return
        payload = frames[0].bytes
        try:
            request = self._decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            text = f"{error}. Wanted: a call as docs/protocol.md has it"
            self._send_answer(envelope, _refusal(_id_of(payload), "bad_request", text))
            return
        self._call(envelope, request)

    def _call(self, envelope: Envelope, request: Request) -> None:
        operation = self._operations.get(request.op)
        if operation is None:
            text = f"there is no op {request.op!r}. Wanted: one of {', '.join(sorted(self._operations))}"
            self._send_answer(envelope, _refusal(request.id, "unknown_op", text))
        elif self._stopping:
            text = f"the daemon stops; {request.op} was not done. To fix: ask again when it is back"
            self._send_answer(envelope, _refusal(request.id, "stopping", text))
        elif not operation.long:
            self._send_answer(envelope, _answer(request, operation))
        else:
            self._queue(_Call(envelope, request, operation))

    def _queue(self, call: _Call) -> None:
        try:
            self._long.put_nowait(call)
            self.pending.add(call)
        except queue.Full:
            text = f"{LONG_CALLS} calls wait already. To fix: ask again later"
            self._send_answer(call.envelope, _refusal(call.request.id, "busy", text))

    def _work(self) -> None:
        """Run long calls; the second thread."""
        while (call := self._long.get()) is not None and not self._stopping:
            log.info("asked for %s of %r", call.request.op, call.request.model)
            self.answer(call, _answer(call.request, call.operation))

    def _finish(self, request: _Call, answer: Reply | ErrorReply) -> None:
        self.pending.discard(request)
        self._send_answer(request.envelope, answer)

    def _refuse(self, request: _Call) -> None:
        text = f"the daemon stops; whether {request.request.op} was done is not known"
        self._finish(request, _refusal(request.request.id, "stopping", text))

    def _send_answer(self, envelope: Envelope, answer: Reply | ErrorReply) -> None:
        payload = self._encode(answer)
        if len(payload) > MAX_MESSAGE_BYTES:
            text = f"the result has {len(payload)} bytes. Wanted: at most {MAX_MESSAGE_BYTES}"
            answer = _refusal(answer.id, "too_large", text)
            payload = self._encode(answer)
        if isinstance(answer, ErrorReply):
            self.refused[answer.error.code] += 1
        self._send(envelope, payload)

    def _encode(self, answer: Reply | ErrorReply) -> bytes:
        try:
            return self._encoder.encode(answer)
        except UnicodeEncodeError:  # a path in Linux is bytes, and may not be UTF-8
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
    """Return the id of a call that is otherwise invalid."""
    try:
        return msgspec.json.decode(payload, type=_Id).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
