"""What a source delivers: frames, the reasons why there are none, and the states of the source itself."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from qzd_client.messages import SourceStateName
from qzd_ext.geometry import Frame, Picture, size_of

__all__ = ["SourceFrame", "SourceState", "Tally"]


@dataclass(frozen=True, slots=True, eq=False)
class SourceFrame:
    """What a source delivered: a frame, or the reason why there is none.

    Attributes
    ----------
    frame : (h, w, 3) uint8 BGR, or Picture, or None
        A picture is converted only when a model takes it.
    reason : str or None
        Why there is no frame; with a frame, why it is not whole.
    pts_s : float or None
        The frame's own time in its video, in seconds.
    file : str or None
        The file's name, for a directory.
    captured_ns : int
        Wall clock at which it was captured, as far as that is known.
    ready : float
        `time.perf_counter()` of the moment at which it was delivered.
    left_out : int
        Frames before this one that the source left out because newer ones had come.
    absent : int
        Frames before this one that never came, by the video's own clock.
    """

    frame: Frame | Picture | None
    reason: str | None = None
    pts_s: float | None = None
    file: str | None = None
    captured_ns: int = field(default_factory=time.time_ns)
    ready: float = field(default_factory=time.perf_counter)
    left_out: int = 0
    absent: int = 0

    @property
    def whole(self) -> bool:
        """Whether there is a frame, and nothing is known to be wrong with it."""
        return self.frame is not None and self.reason is None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels; 0 and 0 without a frame."""
        return size_of(self.frame) if self.frame is not None else (0, 0)

    def as_of_now(self) -> SourceFrame:
        """Return the same, captured now: a frame of a file is captured when it is played, not decoded."""
        return replace(self, captured_ns=time.time_ns(), ready=time.perf_counter())

    def without_picture(self) -> SourceFrame:
        """Return the same without its picture, as one that could not be decoded."""
        return replace(self, frame=None)


@dataclass(slots=True)
class Tally:
    """Counts what a source has delivered.

    Attributes
    ----------
    frames : int
        All frames, those that it left out too.
    damaged : int
        Of these, pictures that were not whole.
    undecodable : int
        Of these, frames without a picture.
    absent : int
        Frames that never came, by the video's own clock.
    whole_ns : int or None
        Wall clock at which the last whole picture was captured.
    """

    frames: int = 0
    damaged: int = 0
    undecodable: int = 0
    absent: int = 0
    whole_ns: int | None = None

    @property
    def complete(self) -> bool:
        """Whether every frame came whole; gaps in timestamps do not count: a camera may make them."""
        return not (self.damaged or self.undecodable)

    def add(self, frame: SourceFrame) -> None:
        """Count a frame, and what is told about those before it."""
        self.frames += frame.left_out + 1
        self.absent += frame.absent
        if frame.whole:
            self.whole_ns = frame.captured_ns
        elif frame.frame is not None:
            self.damaged += 1
        else:
            self.undecodable += 1

    def describe(self) -> str:
        """Return the faults as a clause that follows a number of frames; empty if there are none."""
        counts = ((self.damaged, "of them damaged"), (self.undecodable, "more could not be decoded"))
        told = [f", {count} {text}" for count, text in (*counts, (self.absent, "more never came")) if count]
        return "".join(told)


@dataclass(frozen=True, slots=True)
class SourceState:
    """The state of a source has changed."""

    state: SourceStateName
    reason: str | None = None
