"""The bundles that a configuration names, read with an error for a person where this user may not read them.

What may live here: that. What a bundle is, and whether it is whole, is known to `qzd_ext.bundle`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from qzd_ext import bundle
from qzd_ext.bundle import Bundle
from qzd_ext.errors import BundleError

__all__ = ["locate_bundle", "read_bundle"]


def read_bundle(path: str) -> Bundle:
    """Read and check a model's bundle.

    Raises
    ------
    BundleError
        It is damaged, or not there, or this user may not read it.
    """
    with _readable(path):
        return bundle.read(Path(path))


def locate_bundle(path: str) -> Path:
    """Where a model's bundle lies now, the highest of numbered ones; raises as `read_bundle`."""
    with _readable(path):
        return bundle.locate(Path(path))


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read: {error.strerror}",
            wanted="a bundle that the daemon's user may read",
            fix="move it, for example to /var/lib/qzd/models, or let the user read it and what it lies in",
        ) from error
