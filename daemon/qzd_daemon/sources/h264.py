"""Frame numbers of H.264: what is absent from the stream shows as a gap in them, not reported by FFmpeg.

Source: ITU-T H.264, 7.3.1 (NAL units), 7.3.2.1.1 (sequence parameter sets), 7.3.3 (slice headers), 7.4.3
(gaps in `frame_num`) and D.2.8 (recovery points).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["FrameNumbers", "Reading"]

SLICE, IDR, SEI, SPS, PPS = 1, 5, 6, 7, 8
RECOVERY_POINT = 6
START = b"\x00\x00\x01"
HEADER_BYTES = 48  # of a slice, as far as its frame number at most
HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}


@dataclass(frozen=True, slots=True)
class Reading:
    """What the header of one picture says.

    Attributes
    ----------
    absent : int
        Reference pictures that are absent before this one.
    recovered : bool
        The picture completes a gradual refresh that began without a gap: it refers to nothing older.
    """

    absent: int
    recovered: bool


@dataclass(frozen=True, slots=True)
class _Sequence:
    numbers: int  # frame numbers count modulo this
    bits: int
    gaps_allowed: bool
    separate_planes: bool


class FrameNumbers:
    """Follows the frame numbers of one video.

    Parameters
    ----------
    extradata : bytes or None
        The decoder's configuration: `avcC`, or Annex B.
    """

    def __init__(self, extradata: bytes | None) -> None:
        self._length_size = 0
        self._sequences: dict[int, _Sequence] = {}
        self._sequence_of: dict[int, int] = {}
        self._last: int | None = None
        self._refreshed_at: int | None = None  # the frame number that ends the present gradual refresh
        if extradata and extradata[0] == 1:
            self._length_size = (extradata[4] & 3) + 1
            for unit in _configuration_units(extradata):
                self._read_parameters(unit)
        elif extradata:
            self.read(extradata)

    def damaged(self) -> None:
        """Forget the gradual refresh that has begun: it does not refresh everything."""
        self._refreshed_at = None

    def read(self, packet: bytes) -> Reading | None:
        """Read a packet's headers; None if it has no slice, or its headers cannot be read."""
        try:
            return self._read(packet)
        except (ValueError, KeyError, IndexError):  # damaged, which the decoder says too
            return None

    def _read(self, packet: bytes) -> Reading | None:
        refresh = None
        for unit in self._units(packet):
            kind = unit[0] & 31
            if kind == SEI:
                refresh = _recovery_frames(_unescape(unit[1:64]))
            elif kind in (SPS, PPS):
                self._read_parameters(unit)
            elif kind in (SLICE, IDR):
                return self._read_slice(unit, refresh)
        return None

    def _units(self, packet: bytes) -> Iterator[bytes]:
        """Yield the NAL units of a packet; of a slice at least its header."""
        at = 0
        if not self._length_size:
            while (at := packet.find(START, at) + len(START)) >= len(START):
                end = packet.find(START, at, at + 1024)
                yield packet[at : end if end >= 0 else at + 1024]
            return
        while at + self._length_size < len(packet):
            begin = at + self._length_size
            at = begin + int.from_bytes(packet[at:begin], "big")
            yield packet[begin : min(at, begin + 1024)]

    def _read_parameters(self, unit: bytes) -> None:
        bits = _Bits(_unescape(unit[1:]))
        if unit[0] & 31 == SPS:
            number, sequence = _read_sequence(bits)
            self._sequences[number] = sequence
        else:
            picture = bits.exp_golomb()
            self._sequence_of[picture] = bits.exp_golomb()

    def _read_slice(self, unit: bytes, refresh: int | None) -> Reading:
        bits = _Bits(_unescape(unit[1:HEADER_BYTES]))
        bits.exp_golomb()  # first macroblock
        bits.exp_golomb()  # type
        sequence = self._sequences[self._sequence_of[bits.exp_golomb()]]
        if sequence.separate_planes:
            bits.take(2)
        number = bits.take(sequence.bits)
        absent = self._absent(number, sequence) if unit[0] & 31 == SLICE else 0
        if absent:
            self.damaged()
        if refresh:  # without a count the picture is whole by itself: FFmpeg calls it a key frame
            self._refreshed_at = (number + refresh) % sequence.numbers
        recovered = not refresh and number == self._refreshed_at
        if recovered:
            self._refreshed_at = None
        if unit[0] >> 5 & 3:  # others may refer to it
            self._last = number
        return Reading(absent, recovered)

    def _absent(self, number: int, sequence: _Sequence) -> int:
        if self._last is None or sequence.gaps_allowed or number == self._last:
            return 0
        return (number - self._last - 1) % sequence.numbers


class _Bits:
    """Reads bits; raises ValueError at the end."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        return self._value >> self._left & (1 << count) - 1

    def exp_golomb(self) -> int:
        """Read an unsigned number, ue(v) in clause 9.1; a signed one takes the same bits."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        """Read a signed number, se(v)."""
        number = self.exp_golomb()
        return (number + 1) // 2 if number % 2 else -number // 2


def _unescape(unit: bytes) -> bytes:
    """Remove the bytes that keep start codes out of a unit."""
    return unit.replace(b"\x00\x00\x03", b"\x00\x00")


def _configuration_units(extradata: bytes) -> Iterator[bytes]:
    """Yield the parameter sets in an `avcC`. Source: ISO/IEC 14496-15, 5.3.3.1."""
    at = 5
    for mask in (31, 255):
        count, at = extradata[at] & mask, at + 1
        for _ in range(count):
            size = int.from_bytes(extradata[at : at + 2], "big")
            yield extradata[at + 2 : at + 2 + size]
            at += 2 + size


def _read_sequence(bits: _Bits) -> tuple[int, _Sequence]:
    """Read a sequence parameter set: its number, and the fields that are needed here."""
    profile = bits.take(8)
    bits.take(16)
    number = bits.exp_golomb()
    separate_planes = profile in HIGH_PROFILES and _skip_high_profile(bits)
    size = bits.exp_golomb() + 4
    order = bits.exp_golomb()
    if order == 0:
        bits.exp_golomb()
    elif order == 1:
        bits.take(1)
        bits.exp_golomb()
        bits.exp_golomb()
        for _ in range(bits.exp_golomb()):
            bits.exp_golomb()
    bits.exp_golomb()  # reference frames
    return number, _Sequence(1 << size, size, bool(bits.take(1)), separate_planes)


def _skip_high_profile(bits: _Bits) -> bool:
    """Pass over chroma format, depths and scaling matrices; return `separate_colour_plane_flag`."""
    chroma = bits.exp_golomb()
    separate_planes = chroma == 3 and bool(bits.take(1))
    bits.exp_golomb()
    bits.exp_golomb()
    bits.take(1)
    if bits.take(1):
        for index in range(12 if chroma == 3 else 8):
            if bits.take(1):
                _skip_scaling_list(bits, 16 if index < 6 else 64)
    return separate_planes


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last


def _recovery_frames(message: bytes) -> int | None:
    """Return `recovery_frame_cnt` of the recovery point in a unit of supplemental information, or None."""
    at = 0
    while at + 2 < len(message):
        kind, at = _extended_byte(message, at)
        size, at = _extended_byte(message, at)
        if kind == RECOVERY_POINT:
            return _Bits(message[at : at + size]).exp_golomb()
        at += size
    return None


def _extended_byte(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    while message[at] == 255:
        value, at = value + 255, at + 1
    return value + message[at], at + 1
