"""Types of command-line options, which the daemon's programs and the tools share.

What may live here: how a value that a person gives is read. The options are in each program's commands.
"""

from __future__ import annotations

import math
from typing import Any

import click

__all__ = ["Finite"]


class Finite(click.FloatRange):
    """A finite number in a range: nan is outside of none, and a gate at nan would hold for everything."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As click does, but for what is not finite."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not finite", param, ctx)
        return number
