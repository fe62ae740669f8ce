"""The directory of compiled models, kept within its bound.

OpenVINO writes a file for each model, device, option and version of itself, and never removes one. What may
live here: removing the least recently used. It is only a cache: whatever goes wrong with it stops nothing.
"""

from __future__ import annotations

import logging
from pathlib import Path

__all__ = ["prune"]

log = logging.getLogger(__name__)


def prune(directory: Path, most_bytes: int) -> int:
    """Remove the compiled models that were used longest ago, until the rest fits.

    Parameters
    ----------
    directory : Path
        OpenVINO's cache directory. Only its `*.blob` files are looked at.
    most_bytes : int
        That all of them together may take.

    Returns
    -------
    int
        How many were removed.
    """
    removed = 0
    try:
        blobs = [(path, path.stat()) for path in directory.glob("*.blob")]
        taken = sum(stat.st_size for _, stat in blobs)
        for path, stat in sorted(blobs, key=lambda blob: max(blob[1].st_atime, blob[1].st_mtime)):
            if taken <= most_bytes:
                break
            path.unlink(missing_ok=True)
            taken -= stat.st_size
            removed += 1
    except OSError as error:
        log.warning("%s: the compile cache could not be kept in its bound: %s", directory, error)
    return removed
