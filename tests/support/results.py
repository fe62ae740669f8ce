"""What a model found in a frame, as the kind that the test expects."""

from __future__ import annotations

from qzd_ext.detections import Classes, Detections

__all__ = ["as_classes", "as_detections"]


def as_detections(found: Detections | Classes) -> Detections:
    """Return a detector's result, and fail if it is a classifier's."""
    assert isinstance(found, Detections)
    return found


def as_classes(found: Detections | Classes) -> Classes:
    """Return a classifier's result, and fail if it is a detector's."""
    assert isinstance(found, Classes)
    return found
