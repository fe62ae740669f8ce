"""Call the control socket: ask what runs, and change it."""

from __future__ import annotations

import time
from typing import TypeVar

import msgspec

from qzd_client.connect import CONTROL, Keys
from qzd_client.errors import EndpointError
from qzd_client.request_client import REPLY_SECONDS, RefusedError, RequestClient, wrong_socket
from qzd_client.requests import (
    ControlReply,
    DeviceStatus,
    ModelStatus,
    Pong,
    Request,
    SelfTestResult,
    Snapshot,
    Status,
    StreamStatus,
)

__all__ = ["ControlClient"]

T = TypeVar("T")


class ControlClient(RequestClient):
    """Call the control socket; one call at a time.

    `devices`, `self_test`, `load`, `swap`, `rollback`, `unload` and `reload` take as long as the daemon
    needs, up to minutes on a device that compiles slowly: give a longer `timeout`.

    Parameters
    ----------
    endpoint : str
        One of the daemon's `[control] bind`.
    keys : Keys, optional
        CURVE keys for a TCP endpoint.
    timeout : float
        Seconds to wait for each answer.

    Raises
    ------
    EndpointError
        The endpoint is not valid. From every method: no answer came in time, or the connection ended.
    DataError
        A key cannot be used.
    RefusedError
        From every method: the daemon refuses the call or fails to do it.

    Examples
    --------
    ::

        with ControlClient("ipc:///run/qzd/control", timeout=600) as control:
            for model in control.models():
                print(model.model.name, model.model.version)
            control.swap("ssd", "4")
    """

    def __init__(
        self, endpoint: str = CONTROL, *, keys: Keys | None = None, timeout: float = REPLY_SECONDS
    ) -> None:
        super().__init__(endpoint, keys, timeout)

    def ping(self) -> Pong:
        """Return the version and the epoch of the daemon."""
        return self._call("ping", Pong)

    def status(self) -> Status:
        """Return the state of sockets, streams and models."""
        return self._call("status", Status)

    def streams(self) -> list[StreamStatus]:
        """Return each stream and the state of its source."""
        return self._call("streams", list[StreamStatus])

    def models(self) -> list[ModelStatus]:
        """Return each model that serves."""
        return self._call("models", list[ModelStatus])

    def devices(self) -> list[DeviceStatus]:
        """Return the devices of the daemon's machine and the models that run on them."""
        return self._call("devices", list[DeviceStatus])

    def snapshot(self) -> Snapshot:
        """Return the last message of every topic."""
        return self._call("snapshot", Snapshot)

    def self_test(self, model: str | None = None) -> SelfTestResult:
        """Run the golden frames of one model, or of all models.

        Raises
        ------
        RefusedError
            With the code `gate`: a frame gives other boxes than those in the bundle.
        """
        return self._call("self_test", SelfTestResult, model=model)

    def load(self, model: str, bundle: str, device: str | None = None) -> ModelStatus:
        """Serve one more model until the next reload.

        Parameters
        ----------
        model : str
            Its name: the key in messages and topics.
        bundle : str
            Absolute path of a bundle on the daemon's machine.
        device : str, optional
            AUTO if omitted.
        """
        return self._call("load", ModelStatus, model=model, bundle=bundle, device=device)

    def swap(self, model: str, version: str) -> ModelStatus:
        """Serve a model with another version, from one frame to the next.

        Parameters
        ----------
        model : str
        version : str
            Name of a directory below the model's `bundle`.
        """
        return self._call("swap", ModelStatus, model=model, version=version)

    def rollback(self, model: str) -> ModelStatus:
        """Serve a model with the version that it had before its last swap."""
        return self._call("rollback", ModelStatus, model=model)

    def unload(self, model: str) -> None:
        """Stop serving a model that no stream uses."""
        self._call("unload", type(None), model=model)

    def reload(self) -> None:
        """Read the configuration file again and apply its changes."""
        self._call("reload", type(None))

    def _call(self, op: str, kind: type[T], **arguments: str | None) -> T:
        """Send a call and return its result, decoded as `kind`."""
        self._count += 1
        end = time.monotonic() + self._timeout
        request = Request(id=self._count, op=op, **arguments)
        reply = self._decode(self._exchange([msgspec.json.encode(request)], end))
        while reply.id != self._count:  # the reply to a call that timed out
            reply = self._decode(self._receive(end))
        if reply.error is not None:
            raise RefusedError(reply.error)
        return self._result(op, reply.result, kind)

    def _decode(self, frames: list[bytes]) -> ControlReply:
        try:
            (payload,) = frames
            return msgspec.json.decode(payload, type=ControlReply)
        except (ValueError, msgspec.DecodeError):
            raise wrong_socket(self._endpoint, "control") from None

    def _result(self, op: str, result: msgspec.Raw, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(result, type=kind)
        except msgspec.DecodeError as error:
            raise EndpointError(
                f"{self._endpoint}: the answer to {op} cannot be read: {error}",
                wanted="a daemon of the client's version",
                fix="install the qzd-client that belongs to the daemon's version",
            ) from error
