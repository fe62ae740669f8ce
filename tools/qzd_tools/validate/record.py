"""Writing a measured accuracy into a bundle that is there.

A bundle is never edited in place: it is written anew beside itself and takes its place when it is whole.
Its digest changes, since that names bundle.toml; its model does not.
"""

from __future__ import annotations

import shutil

import msgspec

from qzd_ext import bundle as bundles
from qzd_ext.bundle import LABELS, Bundle
from qzd_ext.errors import BundleError
from qzd_ext.manifest import Accuracy, Manifest

__all__ = ["record"]


def record(bundle: Bundle, accuracy: Accuracy) -> Bundle:
    """Put an accuracy into a bundle's manifest, in place of one of the same data, device and thresholds.

    What others have recorded since the bundle was read stays. A baseline does too, where there is no new one.

    Returns
    -------
    Bundle
        Read back, with its new digest.

    Raises
    ------
    BundleError
        It cannot be written, or is another model by now.
    """
    manifest = bundles.read(bundle.path).manifest
    if _without_accuracy(manifest) != _without_accuracy(bundle.manifest):
        raise BundleError(
            f"{bundle.path}: it has been replaced since it was measured",
            wanted=f"the bundle whose digest was {bundle.digest}",
            fix="measure the one that is there now",
        )
    for before in manifest.accuracy:
        if _same(before, accuracy) and not accuracy.baseline:
            accuracy = msgspec.structs.replace(accuracy, baseline=before.baseline)
    kept = (one for one in manifest.accuracy if not _same(one, accuracy))
    with bundles.create(bundle.path, overwrite=True) as draft:
        for name in manifest.files:
            if name != LABELS:  # written from the manifest
                target = draft.directory / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.path / name, target)
        draft.manifest = msgspec.structs.replace(manifest, accuracy=(*kept, accuracy))
    return bundles.read(bundle.path)


def _without_accuracy(manifest: Manifest) -> Manifest:
    return msgspec.structs.replace(manifest, accuracy=())


def _same(one: Accuracy, other: Accuracy) -> bool:
    """Whether two were measured in the same way, so that the newer replaces the older."""
    keys = ("dataset", "device", "inference_precision", "thresholds")
    return all(getattr(one, key) == getattr(other, key) for key in keys)
