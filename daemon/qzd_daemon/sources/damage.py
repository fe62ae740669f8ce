"""Whether the pictures of a video are whole: every sign of damage counts, and lasts until a key frame.

FFmpeg decodes what it can and makes up the rest. That a picture is not whole shows only in signs: a packet or
a picture that is marked, an error, a message in FFmpeg's log, a gap in the frame numbers of H.264.
"""

from __future__ import annotations

import collections
import logging
import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import av
import av.logging
from av.video.codeccontext import VideoCodecContext

from qzd_daemon.sources.h264 import FrameNumbers

__all__ = ["DamageTracker", "LostPicture", "Messages", "Packet", "losses"]

Packet: TypeAlias = "av.Packet[av.VideoStream]"
Messages: TypeAlias = Sequence[tuple[int, str, str]]
"""What FFmpeg logged: its level, the part that logged, the text."""

LostPicture: TypeAlias = tuple[str, float | None]
"""Why a packet gave no picture, and the picture's own time in seconds."""

MOST_PENDING = 256  # packets whose pictures have not come; a decoder holds back 16 at most
HARMLESS = re.compile(
    "deprecated pixel format|Increasing reorder buffer|SEI type|Late SEI|unable to decode APP fields"
)
LOSS = re.compile("missed|corrupt|mismatch|dropping|truncat", re.IGNORECASE)

av.logging.set_level(av.logging.WARNING)  # nothing is printed: it is captured, or goes to this logger
av.logging.set_skip_repeated(False)
logging.getLogger("libav").setLevel(logging.CRITICAL)


def losses(messages: Messages) -> list[tuple[int, str, str]]:
    """Return those of FFmpeg's messages that report data lost on the way, as for RTP."""
    return [message for message in messages if LOSS.search(message[2])]


class DamageTracker:
    """Follows the signs of damage in one video.

    From a sign on no picture is whole: it may refer to what is damaged. The first key frame whose packet came
    after the last sign ends that, or a gradual refresh of H.264 that began after it. If every picture is a
    key frame, as in MJPEG, that is the next one. A video without either stays damaged to its end.

    Parameters
    ----------
    context : VideoCodecContext
        Of the video.
    """

    def __init__(self, context: VideoCodecContext) -> None:
        self._decoder = context.name
        is_h264 = context.codec.canonical_name == "h264"
        self._numbers = FrameNumbers(context.extradata) if is_h264 else None
        self._packets = 0
        self._numbered = False  # whether the decoder tells which packet a picture is of
        self._pending: dict[int, float | None] = {}  # packets whose picture has not come, with its time
        self._lost_times: collections.deque[float | None] = collections.deque(maxlen=MOST_PENDING)
        self._since = self._until = 0  # the packets of the first and the last sign; 0: no damage
        self._recovered_at = 0
        self._reason = ""

    @property
    def reason(self) -> str | None:
        """What was found, while the pictures are not whole."""
        return self._reason if self._until else None

    def read(self, packet: Packet, messages: Messages) -> None:
        """Note a packet, and what FFmpeg said while it read it.

        FFmpeg may say it one packet early, since it knows the end of a picture by the beginning of the next.
        """
        self._packets += 1
        packet.opaque = self._packets
        time = float(packet.pts * packet.time_base) if packet.pts is not None else None
        self._pending[self._packets] = time
        if len(self._pending) > MOST_PENDING:
            del self._pending[next(iter(self._pending))]
        if packet.is_corrupt:
            self._note("a packet is damaged", self._packets + 1)
        for level, _, text in messages:
            if level <= av.logging.ERROR or LOSS.search(text):
                self._note(text, self._packets + 1)
        if self._numbers:
            self._read_numbers(self._numbers, packet)

    def _read_numbers(self, numbers: FrameNumbers, packet: Packet) -> None:
        reading = numbers.read(bytes(packet))
        if reading is None:
            return
        if reading.absent:  # a key frame does not refer to what is absent before it
            self._note(f"{reading.absent} pictures are absent", self._packets - packet.is_keyframe)
        if reading.recovered:
            self._recovered_at = self._packets

    def decoded(self, messages: Messages) -> None:
        """Note what FFmpeg's decoder said of the last packet; hardware says nothing of pictures."""
        for _, part, text in messages:
            if part == self._decoder and not HARMLESS.search(text):
                self._note(text, self._packets)

    def failed(self, error: av.error.FFmpegError) -> LostPicture:
        """Note that the last packet cannot be decoded; return the picture that is lost with it."""
        self._note(error.strerror or str(error), self._packets)
        return self._lose(self._packets)

    def judge(self, picture: av.VideoFrame) -> str | None:
        """Note a picture that was decoded; return why it is not whole."""
        number = self._number(picture)
        self._pending.pop(number, None)
        if picture.is_corrupt:
            self._note("the decoder made up a part of the picture", number)
        if self._until and number > self._until and (picture.key_frame or number == self._recovered_at):
            self._since = self._until = 0
        return self.reason

    def _number(self, picture: av.VideoFrame) -> int:
        """Return the number of a picture's packet.

        If the decoder numbers its pictures but not this one, the number is 0, which ends no damage.
        """
        if isinstance(picture.opaque, int):
            self._numbered = True
            return picture.opaque
        return 0 if self._numbered else self._packets

    def lost_before(self, picture: av.VideoFrame) -> Iterable[LostPicture]:
        """Return the pictures that can no longer come once this one has; judge this one next.

        A packet that gives no picture is lost only if there is damage: some codecs hide pictures.
        """
        return self._lost(picture.opaque) if picture.key_frame and isinstance(picture.opaque, int) else ()

    def lost_at_end(self) -> Iterable[LostPicture]:
        """Return the pictures that can no longer come after the last one."""
        return self._lost(self._packets + 1)

    def _lost(self, before: int) -> Iterable[LostPicture]:
        for number in [n for n in self._pending if n < before]:
            if self._since and number >= self._since:
                yield self._lose(number)
            else:
                del self._pending[number]

    def _lose(self, number: int) -> LostPicture:
        time = self._pending.pop(number, None)
        self._lost_times.append(time)
        return self._reason, time

    def told_between(self, first: float, last: float) -> int:
        """Return how many lost pictures are told of, or will be, that have their time between two others."""
        times = (*self._pending.values(), *self._lost_times)
        return sum(time is not None and first < time < last for time in times)

    def _note(self, found: str, number: int) -> None:
        if not self._until:
            self._since, self._reason = number, f"damaged video data: {' '.join(found.split())}"
        self._until = max(self._until, number)
        if self._numbers:
            self._numbers.damaged()
