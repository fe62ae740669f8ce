"""FFmpeg refuses what would take too much memory, and decodes all else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

PROGRAM = """
import resource, sys
import av
from qzd_daemon.sources.ffmpeg import limit_allocations
from qzd_daemon.sources.decode import decode_frames
from qzd_daemon.sources.hardware import decoder
limit_allocations()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    with av.open(sys.argv[1], format="mpjpeg") as container:
        decode = decoder(container, "camera", hardware=False)
        for frame in decode_frames(container, decode):
            print("refused" if frame.frame is None else frame.size)
except av.error.FFmpegError as error:
    print("refused", type(error).__name__)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before >> 10)
"""


def _multipart(path: Path, picture: bytes, length: int | None = None) -> Path:
    head = b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    path.write_bytes((head % (length or len(picture)) + picture + b"\r\n") * 2)
    return path


def _read(path: Path) -> tuple[list[str], int]:
    """Return what a process of its own says of a file, and the MiB that it took for it."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    *said, taken = done.stdout.splitlines()
    return said, int(taken)


def _jpeg(side: int) -> bytes:
    return cv2.imencode(".jpg", np.zeros((side, side, 3), np.uint8))[1].tobytes()


def test_a_picture_within_the_limit_is_decoded(tmp_path: Path) -> None:
    said, _ = _read(_multipart(tmp_path / "a", _jpeg(6000)))
    assert set(said) == {"(6000, 6000)"}


@pytest.mark.parametrize("side", [6400, 16000], ids=["just above", "sixteen thousand"])
def test_a_picture_beyond_the_limit_is_refused(tmp_path: Path, side: int) -> None:
    said, taken = _read(_multipart(tmp_path / "a", _jpeg(side)))
    assert said[0].startswith("refused")
    assert taken < 100


def test_a_part_that_claims_gigabytes_is_not_allocated(tmp_path: Path) -> None:
    said, taken = _read(_multipart(tmp_path / "a", _jpeg(64), 2_000_000_000))
    assert "(64, 64)" not in said[1:]
    assert taken < 100
