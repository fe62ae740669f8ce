"""Images on which the tiny model finds everything, with COCO annotations."""

from __future__ import annotations

import json
from pathlib import Path

import cv2

from support.tiny_model import CELL, COLOURS, SIDE, paint

__all__ = ["write_painted"]


def write_painted(directory: Path, count: int = 6, first: int = 1) -> Path:
    """Write images and their instances.json; every box but each image's last is one that `tiny` finds.

    Returns
    -------
    Path
        The annotation file.
    """
    (directory / "images").mkdir(parents=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index in range(first, first + count):
        cells = [(i, (index + 3 * i) % 8, COLOURS[(index + i) % 3]) for i in range(3)]
        images.append({"id": index, "file_name": f"{index}.png", "width": SIDE, "height": SIDE})
        assert cv2.imwrite(str(directory / "images" / f"{index}.png"), paint(*cells))
        for column, row, colour in [*cells, (7, 7, "red")]:
            annotations.append({
                "id": len(annotations) + 1, "image_id": index, "category_id": COLOURS.index(colour) + 1,
                "bbox": [column * CELL, row * CELL, CELL, CELL], "area": CELL * CELL, "iscrowd": 0,
            })  # fmt: skip
    categories = [{"id": i, "name": name} for i, name in enumerate(COLOURS, 1)]
    path = directory / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path
