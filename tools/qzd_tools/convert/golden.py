"""Golden frames of a new bundle: pictures, and what its own model finds in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qzd_ext.bundle import Draft
from qzd_ext.decode import Decoder
from qzd_ext.detections import Classes, Detections
from qzd_ext.errors import DataError, DeviceError
from qzd_ext.geometry import prepare
from qzd_ext.golden import GoldenFrame, write_golden
from qzd_ext.manifest import Manifest
from qzd_ext.runner import Runner, RunOptions
from qzd_tools.data.images import evenly, list_images, read_image, shrunk

__all__ = ["GOLDEN_FRAMES", "add_golden", "list_pictures"]

GOLDEN_FRAMES = 4
"""In a bundle: enough to see a wrong device, few enough to start fast."""


def list_pictures(paths: Sequence[Path]) -> list[Path]:
    """The picture files that paths mean: files as they are, directories by what is in them.

    Raises
    ------
    DataError
        A path is not there, or a directory holds nothing.
    """
    return [file for path in paths for file in (list_images(path) if path.is_dir() else [path])]


def add_golden(
    draft: Draft, manifest: Manifest, decoder: Decoder, pictures: Sequence[Path]
) -> list[Detections | Classes]:
    """Run a draft's model over pictures and keep them with what it found.

    Parameters
    ----------
    draft : Draft
        Its model.xml is written already.
    manifest : Manifest
    decoder : Decoder
        Of the manifest's head.
    pictures : sequence of Path
        At most `GOLDEN_FRAMES` are taken, evenly over the sequence; none make no golden frames.

    Returns
    -------
    list of Detections or Classes
        What was found, a picture each.

    Raises
    ------
    DataError
        A box is not finite, or a score not in 0..1: the head expects activated scores and gets logits.
    """
    if not pictures:
        return []
    runner = Runner(draft.directory / "model.xml", RunOptions(hint="latency", requests=1))
    try:
        results = []
        for index, path in enumerate(evenly(pictures, GOLDEN_FRAMES)):
            frame = shrunk(read_image(path))
            slot = runner.acquire()
            assert slot is not None
            transform = prepare(frame, manifest.input, slot.input)
            slot.infer()
            try:
                found = decoder.decode(slot.outputs, transform, manifest.thresholds)
            except DeviceError as error:
                raise DataError(
                    f"{path}: {error.found}",
                    wanted=error.wanted,
                    fix="export the model with the sigmoid or softmax of its scores, or name another --head",
                ) from error
            runner.release(slot)
            write_golden(draft.directory, index, GoldenFrame(frame, found))
            results.append(found)
    finally:
        runner.close()
    return results
