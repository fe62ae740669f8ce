"""Fixtures that every component's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real models, images and videos; skips where it is absent."""
    path = Path(os.environ.get("QZD_DATA", ROOT / ".." / "shared" / "data")).resolve()
    if not path.is_dir():
        pytest.skip(f"no real models and images: {path} is not there (set QZD_DATA)")
    return path
