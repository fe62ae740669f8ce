"""Ask the inference socket what is in an image."""

from __future__ import annotations

import msgspec

from qzd_client.connect import INFERENCE, Keys
from qzd_client.messages import Detections
from qzd_client.request_client import REPLY_SECONDS, RefusedError, RequestClient
from qzd_client.requests import ImageError, ImageFormat, ImageHeader

__all__ = ["InferenceClient"]


class InferenceClient(RequestClient):
    """Send images to the inference socket; one at a time.

    Parameters
    ----------
    endpoint : str
        One of the daemon's `[inference] bind`.
    keys : Keys, optional
        CURVE keys for a TCP endpoint.
    timeout : float
        Seconds to wait for each answer.

    Raises
    ------
    EndpointError
        The endpoint is not valid.
    DataError
        A key cannot be used.

    Examples
    --------
    ::

        with InferenceClient("ipc:///run/qzd/inference") as inference:
            found = inference.infer(Path("street.jpg").read_bytes(), "jpeg")
            print(found.outcome, found.detections)
    """

    def __init__(
        self, endpoint: str = INFERENCE, *, keys: Keys | None = None, timeout: float = 2 * REPLY_SECONDS
    ) -> None:
        super().__init__(endpoint, keys, timeout)

    def infer(
        self,
        image: bytes | memoryview,
        form: ImageFormat,
        *,
        model: str | None = None,
        size: tuple[int, int] | None = None,
    ) -> Detections:
        """Detect or classify what is in one image.

        Parameters
        ----------
        image : bytes
            A JPEG or PNG file, or rows of BGR pixels, one byte per channel.
        form : "jpeg", "png" or "bgr"
        model : str, optional
            May be omitted if the daemon has only one.
        size : (width, height), optional
            In pixels; required for bgr.

        Returns
        -------
        Detections
            Check `outcome`: only `ok` says that what is listed is what is there.

        Raises
        ------
        RefusedError
            The daemon refuses the image, for example because it is busy.
        EndpointError
            No answer came in time, or the connection ended.
        """
        width, height = size or (None, None)
        header = ImageHeader(model=model, format=form, width=width, height=height)
        reply = msgspec.json.decode(self._send_image(header, image), type=Detections | ImageError)
        if isinstance(reply, ImageError):
            raise RefusedError(reply.error)
        return reply
