"""Choose the daemon that a command talks to, and say what is wrong when it cannot be reached."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qzd_client import connect
from qzd_client.connect import Keys
from qzd_client.probe import NothingListensError, SilentError, probe
from qzd_ext.command_line import report
from qzd_ext.errors import EndpointError, UsageError

__all__ = ["Socket", "Target"]

Socket = Literal["detections", "control", "inference"]

LOCAL: dict[Socket, tuple[str, ...]] = {
    "detections": ("ipc:///run/qzd/detections", connect.DETECTIONS),
    "control": (connect.CONTROL, "tcp://127.0.0.1:5562"),
    "inference": (connect.INFERENCE, "tcp://127.0.0.1:5563"),
}


@dataclass(frozen=True, slots=True)
class Target:
    """Hold the options that stand before the command.

    Attributes
    ----------
    endpoint : str or None
        None: QZD_DETECTIONS, QZD_CONTROL or QZD_INFERENCE, else the local endpoints in turn.
    key, server_key : Path or None
    """

    endpoint: str | None
    key: Path | None
    server_key: Path | None

    @property
    def keys(self) -> Keys | None:
        """Return both keys, or None."""
        if self.key is None and self.server_key is None:
            return None
        if self.key is None or self.server_key is None:
            raise UsageError("only one of --key and --server-key is given", wanted="both or neither")
        return Keys(self.key, self.server_key)

    def candidates(self, socket: Socket) -> tuple[str, ...]:
        """Return the endpoints that a command may use, the best first."""
        if self.endpoint is not None:  # an empty one is a mistake, never the default daemon
            return (self.endpoint,)
        given = os.environ.get(f"QZD_{socket.upper()}")
        return (given,) if given else LOCAL[socket]

    def reach(self, socket: Socket) -> str:
        """Return the first endpoint at which a daemon answers, within a second.

        Raises
        ------
        EndpointError
            There is none; it says why.
        """
        errors: list[EndpointError] = []
        endpoints = self.candidates(socket)
        for endpoint in endpoints:
            try:
                probe(endpoint, self.keys, subscribe=socket == "detections")
                return endpoint
            except SilentError as error:
                report("qzdctl", error)
                return endpoint
            except EndpointError as error:
                errors.append(error)
        raise _combined(endpoints, errors)

    def why_unreachable(self, socket: Socket) -> EndpointError | None:
        """Return why no daemon can be reached now; None if one can."""
        try:
            self.reach(socket)
        except EndpointError as error:
            return error
        return None


def _combined(endpoints: tuple[str, ...], errors: list[EndpointError]) -> EndpointError:
    """Return the error that says most: one of a peer that answers, else that nothing listens at all."""
    telling = [error for error in errors if not isinstance(error, NothingListensError)]
    if telling or len(errors) == 1:
        return (telling or errors)[0]
    text = f"nothing listens on {' or '.join(endpoints)}"
    return EndpointError(text, wanted=errors[0].wanted, fix=errors[0].fix)
