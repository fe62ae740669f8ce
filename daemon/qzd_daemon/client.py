"""Keep `from qzd_daemon.client import Client` working; the client is the distribution `qzd-client` now."""

from __future__ import annotations

import warnings

from qzd_client.subscriber import (
    AsyncClient,
    Client,
    Detections,
    Event,
    Gap,
    Keys,
    ModelState,
    Restarted,
    Stale,
    StreamState,
)

__all__ = [
    "AsyncClient",
    "Client",
    "Detections",
    "Event",
    "Gap",
    "Keys",
    "ModelState",
    "Restarted",
    "Stale",
    "StreamState",
]

warnings.warn("import qzd_client instead of qzd_daemon.client", DeprecationWarning, stacklevel=2)
