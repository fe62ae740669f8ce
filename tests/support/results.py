"""Values checked to be of the kind that a test expects, for the type checker too."""

from __future__ import annotations

from typing import TypeVar

from qzd_ext.detections import Classes, Detections

__all__ = ["as_classes", "as_detections", "instance_of"]

T = TypeVar("T")


def instance_of(kind: type[T], value: object) -> T:
    """Return the value, and fail if it is of another kind."""
    assert isinstance(value, kind), f"{value!r} is not a {kind.__name__}"
    return value


def as_detections(found: Detections | Classes) -> Detections:
    """Return a detector's result, and fail if it is a classifier's."""
    return instance_of(Detections, found)


def as_classes(found: Detections | Classes) -> Classes:
    """Return a classifier's result, and fail if it is a detector's."""
    return instance_of(Classes, found)
