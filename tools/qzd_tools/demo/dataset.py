"""Scenes on disk: data sets in COCO format, and clips.

Here lives every seed of the demo, so that one look shows that no picture is both learned from and judged by.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av

from qzd_tools.data.images import write_image
from qzd_tools.demo.scene import LABELS, Frame, moving, still

__all__ = ["CALIBRATION_SEED", "CLIP_SEED", "TRAIN_SEED", "VALIDATION_SEED", "write_clip", "write_dataset"]

TRAIN_SEED = 1
CALIBRATION_SEED = 2
VALIDATION_SEED = 3
CLIP_SEED = 4

_RATE = 25  # of a clip, frames per second


def write_dataset(directory: Path, images: int, seed: int) -> Path:
    """Write pictures and what is in them.

    Parameters
    ----------
    directory : Path
        Made if need be; gets ``instances.json`` and ``images/000000.jpg`` onwards, of several sizes.
    images : int
        How many.
    seed : int
        Of the series, not negative; ``VALIDATION_SEED`` and its like above.

    Returns
    -------
    Path
        The annotation file: COCO format, category ids 1 to 4, boxes as x, y, width, height in pixels.
    """
    (directory / "images").mkdir(parents=True, exist_ok=True)
    pictures: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(images):
        frame = still(seed, number)
        name = f"{number:06d}.jpg"
        write_image(directory / "images" / name, frame.pixels)
        height, width = frame.pixels.shape[:2]
        pictures.append({"id": number + 1, "file_name": name, "width": width, "height": height})
        for annotation in _annotations(frame):
            annotations.append({"id": len(annotations) + 1, "image_id": number + 1, **annotation})
    categories = [{"id": number, "name": name} for number, name in enumerate(LABELS, start=1)]
    path = directory / "instances.json"
    info = {"description": f"qzd demo: parts on a conveyor belt, seed {seed}"}
    coco = {"info": info, "images": pictures, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(coco), encoding="utf-8")
    return path


def write_clip(path: Path, frames: int, seed: int = CLIP_SEED) -> Path:
    """Write a running belt as MPEG-4, 320x240 pixels, 25 frames per second.

    Parameters
    ----------
    path : Path
        Of the .mp4; its parents are made if need be.
    frames : int
        How many; each can be decoded.
    seed : int
        Of the scene, not negative.

    Returns
    -------
    Path
        The same path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=_RATE)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.bit_rate = 3_000_000
        for scene in moving(seed, frames, height=240, width=320):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(scene.pixels, format="bgr24")))
        container.mux(stream.encode(None))
    return path


def _annotations(frame: Frame) -> list[dict[str, Any]]:
    return [
        {
            "category_id": int(kind) + 1,
            "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
            "area": float(area),
            "iscrowd": 0,
        }
        for (x0, y0, x1, y1), kind, area in zip(frame.boxes, frame.classes, frame.areas, strict=True)
    ]
