"""The root of every error that qzd raises on purpose, with exit codes and codes on the wire.

::

    QzdError                    a person can act on the message; never a traceback
     ├── GateError        (1)   a gate failed: accuracy, self-test
     ├── UsageError       (2)   wrong usage
     ├── ResourceError    (3)   a file, model or device could not be used
     │    ├── DataError         images, annotations or keys cannot be used
     │    └── EndpointError     a socket cannot be bound or reached
     └── InterruptedByUser (4)  Ctrl-C

`qzd_ext.errors` adds the errors of bundles, models and devices. A message has three parts: what was found,
what was expected, and what to do.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "DataError",
    "EndpointError",
    "GateError",
    "InterruptedByUser",
    "QzdError",
    "ResourceError",
    "UsageError",
]


class QzdError(Exception):
    """Base of all errors that a person can act on.

    Parameters
    ----------
    found : str
        What was found, with the path, key or tensor named.
    wanted : str, optional
        What was expected instead.
    fix : str, optional
        What to do now, as an instruction.

    Examples
    --------
    >>> print(UsageError("streams='gate'", wanted="several names", fix="write streams=['gate']"))
    streams='gate'
      Wanted: several names
      To fix: write streams=['gate']
    """

    exit_code = 3
    code: ClassVar[str] = "qzd"  # on the wire: stays as it is when a class is renamed

    def __init__(self, found: str, *, wanted: str | None = None, fix: str | None = None) -> None:
        super().__init__(found)
        self.found = found
        self.wanted = wanted
        self.fix = fix

    def __str__(self) -> str:
        parts = [self.found]
        if self.wanted is not None:
            parts.append(f"Wanted: {self.wanted}")
        if self.fix is not None:
            parts.append(f"To fix: {self.fix}")
        return "\n  ".join(parts)


class GateError(QzdError):
    """A gate failed: accuracy below what is required, or a self-test that gives other boxes."""

    exit_code = 1
    code = "gate"


class UsageError(QzdError):
    """Wrong usage of a command or a function."""

    exit_code = 2
    code = "usage"


class ResourceError(QzdError):
    """A file, model or device could not be used."""

    exit_code = 3
    code = "resource"


class DataError(ResourceError):
    """Images or annotations cannot be used."""

    code = "data"


class EndpointError(ResourceError):
    """A socket cannot be bound or reached."""

    code = "endpoint"


class InterruptedByUser(QzdError):  # noqa: N818 - an interruption is not an error
    """Ctrl-C, or SIGTERM to a command line tool."""

    exit_code = 4
    code = "interrupted_by_user"
