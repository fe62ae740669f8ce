"""Which bundles each model has served: to find another version, to go back, and to notice a new one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from qzd_daemon.config.schema import ModelConfig
from qzd_daemon.engine import models
from qzd_ext.bundle import MANIFEST
from qzd_ext.errors import QzdError, UsageError

__all__ = ["Versions", "directory_of", "find_version"]


def find_version(name: str, model: ModelConfig, version: str) -> Path:
    """Return the path of one of a model's numbered bundles.

    Raises
    ------
    UsageError
        The model has no such bundle.
    """
    path = Path(model.bundle) / version
    if version in ("", "..") or "/" in version or not os.path.lexists(path):
        known = ", ".join(_versions(model))
        raise UsageError(
            f"model {name}: there is no version {version!r} in {model.bundle}",
            wanted=f"one of {known}" if known else "a directory of numbered bundles",
            fix=f"copy the bundle to {path} first",
        )
    return path


def directory_of(model: ModelConfig, path: Path) -> str | None:
    """Return what `find_version` takes for a bundle; None if the model's `bundle` is a bundle itself."""
    return path.name if path.parent == Path(model.bundle).resolve() else None


def _versions(model: ModelConfig) -> list[str]:
    """Return the names of the bundles in a model's directory, numbers in their order."""
    try:
        found = [path.parent.name for path in Path(model.bundle).glob(f"*/{MANIFEST}")]
    except OSError:
        return []
    return sorted(found, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))


class Versions:
    """The bundles that each model has had since the start."""

    def __init__(self) -> None:
        self._history: dict[str, list[Path]] = {}  # the present one last
        self._located: dict[str, Path] = {}  # where `bundle` led when that was last served

    def note(self, name: str, model: ModelConfig, path: Path, passed_over: Path | None = None) -> None:
        """Note that a model serves with a bundle from now on, and which newer one is passed over."""
        history = self._history.setdefault(name, [])
        if history[-1:] != [path]:
            history.append(path)
        with contextlib.suppress(QzdError):  # it may have been removed since
            if (located := models.locate(model)) in (path, passed_over):
                self._located[name] = located

    def has_new(self, name: str, model: ModelConfig) -> bool:
        """Return whether `bundle` leads to another bundle than when it was last served."""
        return name in self._located and models.locate(model) != self._located[name]

    def previous(self, name: str) -> Path:
        """Return the bundle that a model had before its last swap.

        Raises
        ------
        UsageError
            The model has had only one.
        """
        history = self._history[name]
        if len(history) < 2:
            raise UsageError(f"model {name}: it has had no other bundle since the start")
        return history[-2]

    def note_rollback(self, name: str) -> None:
        """Forget the bundle that was rolled back, so that the next rollback goes one further."""
        del self._history[name][-2:]

    def forget(self, name: str) -> None:
        """Forget a model that is no longer served."""
        self._history.pop(name, None)
        self._located.pop(name, None)
