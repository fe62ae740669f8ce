"""Draw what was found into a picture, and encode it as JPEG."""

from __future__ import annotations

from collections.abc import Iterable

import cv2

from qzd_client import messages
from qzd_ext.geometry import Frame

__all__ = ["COLOURS", "draw_found", "jpeg"]

COLOURS = ((80, 220, 80), (80, 160, 255), (255, 160, 80), (80, 240, 240), (240, 80, 240), (240, 240, 80))
INK = (16, 16, 16)  # on the colours above, which are all light
FONT, FONT_SCALE, PADDING = cv2.FONT_HERSHEY_SIMPLEX, 0.6, 4
JPEG_QUALITY = 80


def draw_found(picture: Frame, found: Iterable[messages.Detections], scale: float = 1.0) -> None:
    """Draw boxes and classes into a picture, in place.

    Parameters
    ----------
    picture : (h, w, 3) uint8 BGR
    found : iterable of Detections
        Boxes in pixels of the source frame.
    scale : float
        Pixels of the picture per pixel of the source frame.
    """
    for message in found:
        for box in message.detections or ():
            _draw_box(picture, box, scale)
        for line, best in enumerate(message.classes or ()):
            _draw_label(picture, best.label, best.score, best.class_id, (0, (line + 1) * 24))


def _draw_box(picture: Frame, box: messages.Box, scale: float) -> None:
    left, top, right, bottom = (round(v * scale) for v in box.box)
    cv2.rectangle(picture, (left, top), (right, bottom), COLOURS[box.class_id % len(COLOURS)], 2)
    _draw_label(picture, box.label, box.score, box.class_id, (left, top))


def _draw_label(picture: Frame, label: str, score: float, class_id: int, at: tuple[int, int]) -> None:
    """Draw a label on a background, above `at` if there is room, and always inside the picture."""
    text = f"{label.encode('ascii', 'replace').decode()} {score:.2f}"  # OpenCV's font has no other letters
    (width, height), _ = cv2.getTextSize(text, FONT, FONT_SCALE, 1)
    width, height = width + 2 * PADDING, height + 2 * PADDING
    left = max(0, min(at[0], picture.shape[1] - width))
    top = min(max(0, at[1] - height), max(0, picture.shape[0] - height))
    colour = COLOURS[class_id % len(COLOURS)]
    cv2.rectangle(picture, (left, top), (left + width, top + height), colour, cv2.FILLED)
    origin = (left + PADDING, top + height - PADDING)
    cv2.putText(picture, text, origin, FONT, FONT_SCALE, INK, 1, cv2.LINE_AA)


def jpeg(picture: Frame) -> bytes:
    """Encode a picture, (h, w, 3) uint8 BGR, as JPEG."""
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
