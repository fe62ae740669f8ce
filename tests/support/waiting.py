"""Wait for what happens in another thread, process or machine, with an end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, TypeVar

__all__ = ["until"]

T = TypeVar("T")


def until(
    condition: Callable[[], T | Literal[False] | None], seconds: float = 60, *, pause: float = 0.01
) -> T:
    """Ask until the condition gives something true, and return that; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {seconds} s, but {value!r}"
        time.sleep(pause)
    return value
