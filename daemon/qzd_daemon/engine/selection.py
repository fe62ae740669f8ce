"""What is published of a model's results: which labels, each from which score on."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from qzd_client.messages import UsedThresholds
from qzd_daemon.config.schema import ModelConfig, StreamConfig
from qzd_ext.detections import FloatArray
from qzd_ext.errors import ConfigError
from qzd_ext.manifest import Manifest, Thresholds

__all__ = ["Selection", "select"]

DEFAULT = "default"  # the key in `confidence` for all labels that it does not name


@dataclass(frozen=True, slots=True)
class Selection:
    """What the decoder keeps.

    Attributes
    ----------
    thresholds : Thresholds
        Their confidence is the lowest of all labels.
    floors : (classes,) float32, or None
        The least score of each class, infinite for one that is left out; None if all have the same.
    used : UsedThresholds
        What messages say about it.
    """

    thresholds: Thresholds
    floors: FloatArray | None
    used: UsedThresholds


def select(
    name: str, manifest: Manifest, model: ModelConfig, stream: StreamConfig | None = None
) -> Selection:
    """Combine the thresholds of a bundle with what its model and then a stream choose.

    Raises
    ------
    ConfigError
        A label is not one of the model's, or the model classifies and has no labels to choose from.
    """
    configured = (model, stream) if stream is not None else (model,)
    thresholds = _replaced(manifest.thresholds, model)
    confidence, per_label, labels = thresholds.confidence, dict[str, float](), None
    for config in configured:
        labels = config.labels or labels
        if isinstance(config.confidence, dict):
            per_label.update(config.confidence)
            confidence = per_label.pop(DEFAULT, confidence)
        elif config.confidence is not None:
            confidence, per_label = config.confidence, {}
    if not per_label and labels is None:
        thresholds = msgspec.structs.replace(thresholds, confidence=confidence)
        return Selection(thresholds, None, UsedThresholds(confidence, thresholds.iou))
    if manifest.task == "classification":
        raise ConfigError(
            f"model {name}: it classifies, and lists its best classes whatever their scores",
            wanted="neither `labels` nor `confidence` by label",
            fix="remove them, also from its streams",
        )
    names = manifest.labels.names
    _check_labels(name, names, [*per_label, *(labels or ())])
    floors = np.array(
        [per_label.get(n, confidence) if labels is None or n in labels else np.inf for n in names], np.float32
    )
    lowest = float(floors.min())
    used = UsedThresholds(
        confidence,
        thresholds.iou,
        per_label or msgspec.UNSET,
        list(labels) if labels is not None else msgspec.UNSET,
    )
    return Selection(msgspec.structs.replace(thresholds, confidence=min(lowest, 1.0)), floors, used)


def _replaced(of_bundle: Thresholds, config: ModelConfig) -> Thresholds:
    given = {
        name: value for name in ("iou", "max_detections") if (value := getattr(config, name)) is not None
    }
    return msgspec.structs.replace(of_bundle, **given)


def _check_labels(model: str, known: Sequence[str], chosen: Sequence[str]) -> None:
    for label in chosen:
        if label not in known:
            near = difflib.get_close_matches(label, known, n=1)
            shown = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
            raise ConfigError(
                f"model {model}: it has no label {label!r}",
                wanted=f"one of {shown}",
                fix=f"did you mean {near[0]!r}?" if near else "see labels in its bundle.toml",
            )
