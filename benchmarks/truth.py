"""Is `ok` true? Damaged videos and stills, each picture beside the undamaged one of its time.

A wrong picture is one that is taken for whole and differs in any pixel from the undamaged one. Its share is
of all pictures that differ, over three seeds. Untold are pictures of the undamaged video, between the first
and the last that come, that are neither delivered nor counted. Rows without a target are damage without any
sign.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
from report import Row, report

from qzd_daemon.config.schema import StreamConfig
from qzd_daemon.sources.cameras import Camera
from qzd_daemon.sources.decode import decode_frames
from qzd_daemon.sources.frames import SourceFrame, SourceState
from qzd_daemon.sources.hardware import decoder
from qzd_daemon.sources.stills import read_still
from qzd_ext.errors import QzdError
from qzd_ext.geometry import Frame
from support.rtsp_camera import RtspCamera
from support.video_damage import CODECS, alter, lose_ts_packets, moving_squares, write_video
from support.videos import pixels

COUNT = 60
SEEDS = (1, 2, 3)
VIDEO = "videos/person-bicycle-car-detection.mp4"
SKIPPED = 120  # pictures of it, before something moves
NUMBERED = ("h264", "hevc")  # codecs whose pictures show what was cut out; of others only timestamps tell


def main() -> None:
    """Measure every row and report it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        rows = [*_videos(Path(work), _pictures()), *_stills(_pictures()[:50])]
    report(rows, arguments.json)


def _pictures() -> list[Frame]:
    """Pictures of a street, or of moving squares if there is no data."""
    video = Path(os.environ.get("QZD_DATA", "../shared/data")) / VIDEO
    if not video.exists():
        return moving_squares(COUNT, side=320)
    with av.open(str(video)) as container:
        taken = itertools.islice(container.decode(video=0), SKIPPED, SKIPPED + COUNT)
        return [np.asarray(picture.to_ndarray(format="bgr24"), np.uint8) for picture in taken]


def _videos(work: Path, pictures: list[Frame]) -> Iterator[Row]:
    for kind in CODECS:
        suffixes = ("mkv", "mp4") if kind == "mjpeg" else ("mkv", "mp4", "ts")
        clips = {s: write_video(work / f"{kind}.{s}", kind, pictures) for s in suffixes}
        alarms = sum(not frame.whole for clip in clips.values() for frame in _read(clip))
        yield Row(f"{kind}: false alarms on clean files", alarms, 0, unit="frames")
        clean = _read(clips["mkv"])
        yield from _judge(f"{kind}, packets cut short", clean, _altered(clips["mkv"], _cut_short), 0.0)
        numbered = kind.startswith(NUMBERED)
        lost = _altered(clips["mkv"], _cut_out)
        yield from _judge(f"{kind}, packets cut out", clean, lost, 0.0 if numbered else None)
        if "ts" in clips:
            lossy = (
                _read(lose_ts_packets(clips["ts"], work / "lossy.ts", 0.01, seed, 300)) for seed in SEEDS
            )
            yield from _judge(f"{kind}, 1 % of TS packets lost", _read(clips["ts"]), lossy, 0.01)
        if kind.startswith(NUMBERED):
            for loss in (0.01, 0.02):
                sent = (_watch(clips["ts"], loss, seed) for seed in SEEDS)
                yield from _judge(
                    f"{kind}, {loss:.0%} of RTP packets lost", _watch(clips["ts"], 0, 1), sent, 0.01
                )
        if kind == "mjpeg":
            yield from _judge("mjpeg, 40 bytes overwritten", clean, _altered(clips["mkv"], _overwrite), None)


def _read(path: Path) -> list[SourceFrame]:
    with av.open(str(path)) as container:
        return list(decode_frames(container, decoder(container, path.name, hardware=False)))


def _watch(path: Path, loss: float, seed: int) -> list[SourceFrame]:
    """Read a video over RTSP, to the end of the connection."""
    frames: list[SourceFrame] = []
    with RtspCamera(path, loss=loss, seed=seed, speed=4) as camera:
        for item in Camera(StreamConfig(source=camera.url, model="any")).frames(threading.Event()):
            if isinstance(item, SourceState):
                if item.state == "reconnecting":
                    break
            else:
                frames.append(item)
    return frames


Change = Callable[[random.Random, int, bytes], bytes | None]


def _altered(path: Path, change: Change) -> Iterator[list[SourceFrame]]:
    for seed in SEEDS:
        rng = random.Random(seed)  # noqa: S311 - not a secret
        altered = path.with_name(f"altered{path.suffix}")
        yield _read(alter(path, altered, lambda n, content, rng=rng: change(rng, n, content)))  # type: ignore[misc]


def _cut_short(rng: random.Random, number: int, content: bytes) -> bytes | None:
    share = rng.randrange(20, 95) if number and rng.random() < 0.03 else 100
    return content[: len(content) * share // 100]


def _cut_out(rng: random.Random, number: int, content: bytes) -> bytes | None:
    return None if number and rng.random() < 0.03 else content


def _overwrite(rng: random.Random, number: int, content: bytes) -> bytes | None:
    middle = len(content) // 2
    return content[:middle] + rng.randbytes(40) + content[middle + 40 :] if number % 2 else content


def _judge(
    name: str, clean: list[SourceFrame], damaged: Iterable[list[SourceFrame]], target: float | None
) -> Iterator[Row]:
    """Report the share of wrong pictures, and how many are untold."""
    right = {pixels(frame).tobytes() for frame in clean}
    counts: Counter[str] = Counter()
    for frames in damaged:
        for frame in frames:
            if frame.frame is not None and pixels(frame).tobytes() not in right:
                counts["differ"] += 1
                counts["wrong"] += frame.whole
        counts["untold"] += max(0, _untold(frames) - _untold(clean))
    share = counts["wrong"] / counts["differ"] if counts["differ"] else 0.0
    yield Row(f"{name}: wrong of {counts['differ']}", share, target, unit="share")
    yield Row(f"{name}: untold", counts["untold"], 0 if target is not None else None, unit="frames")


def _untold(frames: list[SourceFrame]) -> int:
    numbers = [round(frame.pts_s * 25) for frame in frames if frame.pts_s is not None]
    told = len(numbers) + sum(frame.absent for frame in frames)
    return max(0, max(numbers) - min(numbers) + 1 - told) if numbers else 0


def _stills(pictures: list[Frame]) -> Iterator[Row]:
    """JPEG and PNG, of which a byte, a bit or the end is wrong."""
    cases: dict[str, tuple[str, Callable[[random.Random, bytes], bytes], float | None]] = {
        "jpeg, cut": (".jpg", lambda rng, c: c[: len(c) * rng.randrange(10, 99) // 100], 0.0),
        "jpeg, cut and ended": (
            ".jpg",
            lambda rng, c: c[: len(c) * rng.randrange(10, 90) // 100] + b"\xff\xd9",
            0.0,
        ),
        "jpeg, 60 bytes overwritten": (".jpg", _overwrite_still, None),
        "jpeg, one bit flipped": (".jpg", _flip, None),
        "png, one bit flipped": (".png", _flip, 0.0),
        "webp, cut": (".webp", lambda rng, c: c[: len(c) * rng.randrange(10, 99) // 100], 0.0),
    }
    for name, (suffix, damage, target) in cases.items():
        rng, wrong, alarms = random.Random(1), 0, 0  # noqa: S311 - not a secret
        for picture in pictures:
            content = cv2.imencode(suffix, picture)[1].tobytes()
            clean = _decoded(content)
            alarms += clean is None
            found = _decoded(damage(rng, content))
            wrong += found is not None and clean is not None and not np.array_equal(found, clean)
        yield Row(f"{name}: wrong of {len(pictures)}", wrong / len(pictures), target, unit="share")
        yield Row(f"{name}: false alarms", alarms, 0, unit="frames")


def _decoded(content: bytes) -> Frame | None:
    try:
        return read_still(content)
    except QzdError:
        return None


def _overwrite_still(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) // 4, len(content) - 100)
    return content[:at] + rng.randbytes(60) + content[at + 60 :]


def _flip(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) // 4, len(content) - 20)
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


if __name__ == "__main__":
    main()
