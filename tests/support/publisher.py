"""The daemon's publisher beside a control socket that gives its snapshot, in the test's process."""

from __future__ import annotations

from pathlib import Path

import msgspec

from qzd_client import messages
from qzd_client.messages import StreamState
from qzd_client.requests import Snapshot, SnapshotEntry
from qzd_daemon.config.schema import ControlConfig, PublishConfig
from qzd_daemon.server.control import Control, Operation
from qzd_daemon.server.publisher import Publisher
from qzd_daemon.transport.listener import Listener

__all__ = ["SnapshotPublisher"]


class SnapshotPublisher:
    """A publisher with a control socket that knows only `snapshot`."""

    def __init__(self, directory: Path) -> None:
        self.listener = Listener()
        config = PublishConfig(bind=(f"ipc://{directory}/detections",), heartbeat_ms=50, linger_ms=0)
        self.publisher = Publisher(config, self.listener)
        operations = {"snapshot": Operation(lambda _: self.snapshot())}
        self.control = Control(ControlConfig((f"ipc://{directory}/control",)), self.listener, operations)
        for part in (self.listener, self.publisher, self.control):
            part.start()
        (self.endpoint,), (self.control_endpoint,) = self.publisher.endpoints, self.control.endpoints

    def snapshot(self) -> Snapshot:
        last = dict(self.publisher.last)
        return Snapshot(self.publisher.epoch, [SnapshotEntry(t, msgspec.Raw(m)) for t, m in last.items()])

    def publish(self, number: int, stream: str = "gate") -> None:
        message = StreamState(stream=stream, state="running", frames=number)
        self.publisher.publish(messages.stream_topic(stream), message)

    def close(self) -> None:
        self.control.close()
        self.publisher.close()
        self.listener.close()
