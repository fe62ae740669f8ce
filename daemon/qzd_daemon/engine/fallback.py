"""Which device takes over when the one that serves a model fails."""

from __future__ import annotations

import msgspec

from qzd_daemon.config.schema import ModelConfig
from qzd_daemon.engine.models import LoadedModel

__all__ = ["fall_back_from"]


def fall_back_from(failed: LoadedModel, model: ModelConfig) -> ModelConfig | None:
    """Return a configuration of the devices after the failed one, with the bundle that it served.

    The bundle stays the same: a swap may have chosen another one than `model.bundle` leads to.

    Returns
    -------
    ModelConfig or None
        None if no device is left.
    """
    devices = (model.device, *model.fallback)
    rest = devices[devices.index(failed.device) + 1 :]
    if not rest:
        return None
    path = str(failed.detector.bundle.path)
    return msgspec.structs.replace(model, bundle=path, device=rest[0], fallback=rest[1:])
