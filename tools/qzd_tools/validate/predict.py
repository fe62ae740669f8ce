"""Running a bundle over pictures: what it finds in each of them."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from qzd_ext.bundle import Bundle
from qzd_ext.detections import Classes, Detections
from qzd_ext.detector import Detector, Result
from qzd_ext.errors import DataError, QzdError
from qzd_ext.geometry import Frame
from qzd_ext.manifest import Thresholds
from qzd_ext.runner import RunOptions
from qzd_tools.data.coco import Picture
from qzd_tools.data.images import read_image
from qzd_tools.progress import progress

__all__ = ["Predictions", "Ran", "predict"]

TOP = 5
"""Classes that top-5 needs."""

Predictions = list[Detections | Classes]
"""What is found, by picture, in the order of the pictures."""


class Ran(NamedTuple):
    """How a bundle ran: the devices that executed, separated by commas, and what they computed in."""

    devices: str
    precision: str


def predict(
    bundle: Bundle, pictures: Sequence[Picture], thresholds: Thresholds, options: RunOptions, title: str
) -> tuple[Predictions, Ran]:
    """Run a bundle over pictures.

    Parameters
    ----------
    bundle : Bundle
    pictures : sequence of Picture
    thresholds : Thresholds
    options : RunOptions
    title : str
        Of the progress bar.

    Raises
    ------
    DataError
        A picture cannot be read, or has another size than its annotations.
    DeviceError, ModelError
        The model cannot be run.
    """
    with Detector(_with_enough_classes(bundle), options, thresholds) as detector:
        return _predict(detector, pictures, title), Ran(",".join(detector.devices), detector.precision)


def _with_enough_classes(bundle: Bundle) -> Bundle:
    """Change a classifier to publish at least the five classes that top-5 needs."""
    manifest = bundle.manifest
    if manifest.task != "classification" or manifest.head.top_k >= TOP:  # type: ignore[union-attr]
        return bundle
    head = msgspec.structs.replace(manifest.head, top_k=TOP)
    return dataclasses.replace(bundle, manifest=msgspec.structs.replace(manifest, head=head))


def _predict(detector: Detector, pictures: Sequence[Picture], title: str) -> Predictions:
    """Read pictures while the device works on those before them; results come on other threads."""
    found: dict[int, Detections | Classes] = {}
    faults: list[QzdError] = []
    begin = time.perf_counter()
    with progress(title, len(pictures)) as step:

        def keep(index: int, outcome: Result | QzdError) -> None:
            if isinstance(outcome, QzdError):
                faults.append(outcome)
                return
            found[index] = outcome.found
            step(f"{len(found) / (time.perf_counter() - begin):.1f} images/s")

        for index, picture in enumerate(pictures):
            if faults:
                break
            detector.submit(_read(picture), functools.partial(keep, index))
        detector.drain()
    if faults:
        raise faults[0]
    return [found[index] for index in range(len(pictures))]


def _read(picture: Picture) -> Frame:
    """Read a picture and check its size: boxes drawn in other pixels would make every figure wrong."""
    frame = read_image(picture.path)
    height, width = frame.shape[:2]
    if picture.size not in (None, (width, height)):
        wide, high = picture.size
        raise DataError(
            f"{picture.path}: it has {width}x{height} pixels, its annotations are for {wide}x{high}",
            wanted="boxes in the pixels of the file, as they are before an EXIF orientation is applied",
            fix="name the images that were annotated, or write them again with their orientation applied",
        )
    return frame
