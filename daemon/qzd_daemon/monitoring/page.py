"""Serve the page: pictures, state and server-sent events; read-only.

| path | answer |
| --- | --- |
| `/` | the page; its files are in `static/` |
| `/state` | JSON: the daemon's status, each stream's last minute, models with their accuracy, log lines |
| `/events?stream=NAME&fps=5` | server-sent events `state` and `picture`, of all streams if none is named |
| `/streams/NAME.jpg` | the newest picture; `?boxes=0` leaves out what was found |
| `/streams/NAME.mjpeg` | pictures as they come |
| `/streams/NAME.events` | server-sent events with the stream's state and newest result, twice per second |
"""

from __future__ import annotations

import base64
import importlib.resources
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from qzd_client.requests import Status
from qzd_daemon.monitoring.history import History
from qzd_daemon.monitoring.reply import Reply, Stream
from qzd_daemon.monitoring.view import MAX_FPS, View

__all__ = ["Page"]

FILES = {
    "": ("index.html", "text/html; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "app.mjs": ("app.mjs", "text/javascript; charset=utf-8"),
    "charts.mjs": ("charts.mjs", "text/javascript; charset=utf-8"),
    "tiles.mjs": ("tiles.mjs", "text/javascript; charset=utf-8"),
}
STATE_SECONDS = 1.0
PICTURE_SECONDS = 2.0  # a single picture is waited for so long
MJPEG = "multipart/x-mixed-replace; boundary=qzd-frame"
PART = b"--qzd-frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
Accuracy = Callable[[], dict[str, list[dict[str, Any]]]]


class Page:
    """Answer the page's requests.

    Parameters
    ----------
    view : View
    history : History
    status : callable
        Returns the daemon's status.
    accuracy : callable
        Returns, by model, what its bundle says about its accuracy.
    log_lines : callable
        Returns the last lines of the log.
    """

    def __init__(
        self,
        view: View,
        history: History,
        status: Callable[[], Status],
        accuracy: Accuracy,
        log_lines: Callable[[], list[str]],
    ) -> None:
        self._view, self._history = view, history
        self._status, self._accuracy, self._log_lines = status, accuracy, log_lines
        static = importlib.resources.files(__package__) / "static"
        self._files = {path: (kind, (static / name).read_bytes()) for path, (name, kind) in FILES.items()}
        self._lock = threading.Lock()
        self._state, self._state_at = b"", float("-inf")

    def answer(self, target: str) -> Reply | Stream | None:
        """Return the answer to a GET of `target`, a path with a query; None if it is not of the page."""
        url = urlsplit(target)
        path, query = unquote(url.path).removeprefix("/"), parse_qs(url.query)
        if path in self._files:
            kind, body = self._files[path]
            return Reply(200, kind, body)
        if path == "state":
            return Reply(200, "application/json", self.state())
        if path == "events":
            return self._events(query)
        name, dot, kind = path.removeprefix("streams/").rpartition(".")
        if path.startswith("streams/") and dot and kind in ("jpg", "mjpeg", "events"):
            return self._of_stream(name, kind, query)
        return None

    def state(self) -> bytes:
        """Return the state as JSON; all viewers of one second share it."""
        with self._lock:
            now = time.monotonic()
            if now - self._state_at >= STATE_SECONDS * 0.9:
                self._state, self._state_at = self._make_state(), now
            return self._state

    def _make_state(self) -> bytes:
        status = self._status()
        state = {
            "now_ns": time.time_ns(),
            "status": status,
            "history": {stream.name: self._history.of(stream.name) for stream in status.streams},
            "accuracy": self._accuracy(),
            "log": self._log_lines(),
        }
        return msgspec.json.encode(state)

    def _names(self) -> list[str]:
        return [stream.name for stream in self._status().streams]

    def _of_stream(self, name: str, kind: str, query: dict[str, list[str]]) -> Reply | Stream:
        names = self._names()
        if name not in names:
            there = ", ".join(names) or "none"
            return Reply(404, "text/plain; charset=utf-8", f"no such stream; there are: {there}\n".encode())
        boxes = query.get("boxes", ["1"])[0] != "0"
        if kind == "mjpeg":
            return Stream(MJPEG, self._mjpeg(name, boxes))
        if kind == "events":
            return Stream("text/event-stream", self._results(name))
        return self._jpeg(name, boxes)

    def _jpeg(self, name: str, boxes: bool) -> Reply:
        with self._view.watch([name]) as watch:
            new = watch.next(PICTURE_SECONDS)
            if name in new:
                return Reply(200, "image/jpeg", new[name].jpeg(boxes=boxes))
        text = f"stream {name}: no frame came within {PICTURE_SECONDS:g} s\n"
        return Reply(503, "text/plain; charset=utf-8", text.encode())

    def _mjpeg(self, name: str, boxes: bool) -> Iterator[bytes]:
        with self._view.watch([name]) as watch:
            while True:
                for picture in watch.next(STATE_SECONDS).values():
                    body = picture.jpeg(boxes=boxes)
                    yield PART % len(body) + body + b"\r\n"
                yield b""  # the server looks whether it stops

    def _results(self, name: str) -> Iterator[bytes]:
        while True:
            yield _event("result", json.dumps(self._history.of(name)).encode())
            time.sleep(STATE_SECONDS / 2)

    def _events(self, query: dict[str, list[str]]) -> Reply | Stream:
        wanted = query.get("stream", [])
        try:
            fps = float(query.get("fps", [str(MAX_FPS)])[0])
        except ValueError:
            fps = MAX_FPS
        names = self._names()
        streams = [name for name in wanted if name in names] if wanted else names
        return Stream("text/event-stream", self._push(streams, 1 / min(max(fps, 0.1), MAX_FPS)))

    def _push(self, streams: list[str], interval: float) -> Iterator[bytes]:
        """Yield the state every second, and new pictures at most every `interval` seconds."""
        next_state = next_pictures = 0.0
        with self._view.watch(streams) as watch:
            while True:
                now = time.monotonic()
                if now >= next_state:
                    next_state = now + STATE_SECONDS
                    yield _event("state", self.state())
                if now < next_pictures:
                    time.sleep(min(next_pictures, next_state) - now)
                    continue
                new = watch.next(max(0.0, next_state - now))
                if new:
                    next_pictures = time.monotonic() + interval * 0.9
                for name, picture in new.items():
                    text = base64.b64encode(picture.jpeg()).decode()
                    yield _event("picture", json.dumps({"stream": name, "jpeg": text}).encode())


def _event(kind: str, data: bytes) -> bytes:
    """Source: html.spec.whatwg.org, server-sent events; JSON has no line breaks of its own."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), data)
