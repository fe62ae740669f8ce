"""The client of qzd: subscribe to detections, call the daemon, send frames. Needs only pyzmq and msgspec.

::

    from qzd_client import Client

    with Client("tcp://127.0.0.1:5561") as client:
        for event in client:
            print(event)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from qzd_client._version import __version__

if TYPE_CHECKING:
    from qzd_client.connect import Keys
    from qzd_client.control import ControlClient
    from qzd_client.events import Detections, Event, Gap, ModelState, Restarted, Stale, StreamState
    from qzd_client.frame_sender import FrameSender
    from qzd_client.inference import InferenceClient
    from qzd_client.recording import Recorder, read_recording
    from qzd_client.request_client import RefusedError
    from qzd_client.subscriber import AsyncClient, Client

__all__ = [
    "AsyncClient",
    "Client",
    "ControlClient",
    "Detections",
    "Event",
    "FrameSender",
    "Gap",
    "InferenceClient",
    "Keys",
    "ModelState",
    "Recorder",
    "RefusedError",
    "Restarted",
    "Stale",
    "StreamState",
    "__version__",
    "read_recording",
]

_MODULES = {
    "subscriber": ("AsyncClient", "Client"),
    "control": ("ControlClient",),
    "inference": ("InferenceClient",),
    "frame_sender": ("FrameSender",),
    "recording": ("Recorder", "read_recording"),
    "request_client": ("RefusedError",),
    "connect": ("Keys",),
    "events": ("Detections", "Event", "Gap", "ModelState", "Restarted", "Stale", "StreamState"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that the protocol by itself loads no ZeroMQ."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
