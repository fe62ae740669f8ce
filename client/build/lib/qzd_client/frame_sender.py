"""The sender's side of the ingest socket. Needs pyzmq and msgspec alone.

with FrameSender("gate") as sender:
while True:
sender.send(camera.read())
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

import msgspec

from qzd_client.calls import CALL_SECONDS, RefusedError, RequestClient
from qzd_client.connect import INGEST, Keys
from qzd_client.errors import UsageError
from qzd_client.requests import Accepted, FrameHeader, ImageError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["FrameSender"]

PAUSE_SECONDS = 0.01  # before a frame that was answered `busy` is sent again


class FrameSender(RequestClient):
    """Send the frames of one stream, one after another; other parameters and errors as `ControlClient`.

    Parameters
    ----------
    stream : str
        A stream of the daemon's configuration whose source is `ingest://`.
    endpoint : str
        One of the daemon's `[ingest] bind`.
    timeout : float
        Seconds to wait for an answer; for as long, a frame that is answered `busy` is sent again.
    """

    def __init__(
        self,
        stream: str,
        endpoint: str = INGEST,
        *,
        keys: Keys | None = None,
        timeout: float = 2 * CALL_SECONDS,
    ) -> None:
        super().__init__(endpoint, keys, timeout)
        self._stream = stream

    def send(
        self,
        image: ReadableBuffer,
        form: Literal["jpeg", "png", "bgr"] = "bgr",
        *,
        size: tuple[int, int] | None = None,
        captured_ns: int | None = None,
        pts_s: float | None = None,
    ) -> int:
        """Send a frame, and wait until the stream's models have it in hand.

        For a stream with `when_behind = "wait"` that is as long as they are behind.

        Parameters
        ----------
        image : buffer
            A JPEG or PNG file, or rows of BGR pixels: bytes, or an array, (h, w, 3) uint8, C-contiguous.
        form : "jpeg", "png" or "bgr"
        size : (width, height), optional
            For bgr that is bytes.
        captured_ns : int, optional
            Wall clock at which it was captured; without it, the time of its arrival.
        pts_s : float, optional
            Its own time in its video, in seconds.

        Returns
        -------
        int
            The frame's number in the stream, as its detections message has it.

        Raises
        ------
        UsageError
            The array is no frame.
        RefusedError
            The daemon's answer is no: there is no such stream, or this is no image. With `busy` the stream
            was behind, or not read, for the whole of `timeout`.
        EndpointError
            There is no answer. It is not known what became of the frame.
        """
        pixels = memoryview(image)
        shape = pixels.shape or ()
        if not pixels.c_contiguous or pixels.itemsize != 1 or 0 in shape or shape[2:] not in ((), (3,)):
            raise UsageError(
                f"an array of shape {shape}, {pixels.itemsize} bytes an element",
                wanted="bytes, or (h, w, 3) uint8, C-contiguous",
            )
        width, height = size or (shape[1::-1] if len(shape) == 3 else (None, None))
        header = FrameHeader(
            stream=self._stream, format=form, width=width, height=height, captured_ns=captured_ns, pts_s=pts_s
        )
        return self._insist(header, pixels)

    def _insist(self, header: FrameHeader, pixels: memoryview) -> int:
        """Send it until it is taken."""
        end = time.monotonic() + self._timeout
        while True:
            reply = msgspec.json.decode(self._ask(header, pixels), type=Accepted | ImageError)
            if isinstance(reply, Accepted):
                return reply.frame
            if reply.error.code != "busy" or time.monotonic() > end:
                raise RefusedError(reply.error)
            time.sleep(PAUSE_SECONDS)
