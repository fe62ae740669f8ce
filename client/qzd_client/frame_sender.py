"""Send frames to a stream of the daemon whose source is `ingest://`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec

from qzd_client.connect import INGEST, Keys
from qzd_client.errors import UsageError
from qzd_client.request_client import REPLY_SECONDS, RefusedError, RequestClient
from qzd_client.requests import Accepted, FrameHeader, ImageError, ImageFormat

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["FrameSender"]

PAUSE_SECONDS = 0.01  # before sending a frame again that was answered `busy`


class SupportsArrayInterface(Protocol):
    """An array such as numpy's, whose type is not known as a buffer before Python 3.12."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


class FrameSender(RequestClient):
    """Send the frames of one stream, one after another.

    Parameters
    ----------
    stream : str
        A stream of the daemon's configuration whose source is `ingest://`.
    endpoint : str
        One of the daemon's `[ingest] bind`.
    keys : Keys, optional
        CURVE keys for a TCP endpoint.
    timeout : float
        Seconds to wait for each answer, and to go on sending a frame that is answered `busy`.

    Raises
    ------
    EndpointError
        The endpoint is not valid.
    DataError
        A key cannot be used.

    Examples
    --------
    ::

        video = cv2.VideoCapture("clip.mp4")
        with FrameSender("gate", "ipc:///run/qzd/ingest") as sender:
            while (read := video.read())[0]:
                sender.send(read[1])
    """

    def __init__(
        self,
        stream: str,
        endpoint: str = INGEST,
        *,
        keys: Keys | None = None,
        timeout: float = 2 * REPLY_SECONDS,
    ) -> None:
        super().__init__(endpoint, keys, timeout)
        self._stream = stream

    def send(
        self,
        image: ReadableBuffer | SupportsArrayInterface,
        form: ImageFormat = "bgr",
        *,
        size: tuple[int, int] | None = None,
        captured_ns: int | None = None,
        pts_s: float | None = None,
    ) -> int:
        """Send a frame and wait until it is queued for the stream's models.

        With `when_behind = "wait"` in the stream's configuration, this waits while they are behind.

        Parameters
        ----------
        image : buffer
            A JPEG or PNG file, or rows of BGR pixels: bytes, or an array (h, w, 3) uint8, C-contiguous.
        form : "jpeg", "png" or "bgr"
        size : (width, height), optional
            In pixels; required for bgr as bytes.
        captured_ns : int, optional
            Wall clock at which it was captured, nanoseconds since 1970; default: the time of its arrival.
        pts_s : float, optional
            The frame's own time in its video, in seconds.

        Returns
        -------
        int
            Index of the frame in the stream, as in its detections message.

        Raises
        ------
        UsageError
            The array is not a frame.
        RefusedError
            The stream does not exist, or the image cannot be decoded. With the code `busy`: the stream was
            behind or not read for the whole of `timeout`.
        EndpointError
            No answer came in time; whether the frame is queued is not known.
        """
        pixels = memoryview(cast("ReadableBuffer", image))
        shape = pixels.shape or ()
        if not pixels.c_contiguous or pixels.itemsize != 1 or 0 in shape or shape[2:] not in ((), (3,)):
            raise UsageError(
                f"an array of shape {shape} with {pixels.itemsize} bytes per element",
                wanted="bytes, or (h, w, 3) uint8, C-contiguous",
            )
        width, height = size or (shape[1::-1] if len(shape) == 3 else (None, None))
        header = FrameHeader(
            stream=self._stream, format=form, width=width, height=height, captured_ns=captured_ns, pts_s=pts_s
        )
        return self._insist(header, pixels)

    def _insist(self, header: FrameHeader, pixels: memoryview) -> int:
        """Send a frame until it is queued."""
        end = time.monotonic() + self._timeout
        while True:
            reply = msgspec.json.decode(self._send_image(header, pixels), type=Accepted | ImageError)
            if isinstance(reply, Accepted):
                return reply.frame
            if reply.error.code != "busy" or time.monotonic() > end:
                raise RefusedError(reply.error)
            time.sleep(PAUSE_SECONDS)
