"""Every exception that qzd raises on purpose, and the exit code that each one means.

::

    QzdError                    a person can act on the message; never a traceback
     ├── GateError        (1)   a gate failed: accuracy, self-test
     ├── UsageError       (2)   wrong usage
     │    └── ConfigError (2)   a configuration file is wrong
     ├── ResourceError    (3)   a file, model or device could not be used
     │    ├── BundleError       a bundle is missing, damaged or from another schema
     │    ├── ModelError        a model cannot be read, or its tensors are not what its head needs
     │    ├── DeviceError       the inference device is not there, or failed
     │    ├── DataError         images or annotations cannot be used
     │    ├── SourceError       a stream cannot be opened or read
     │    └── EndpointError     a socket cannot be bound or reached
     └── InterruptedByUser (4)  Ctrl-C

What belongs here: the hierarchy and nothing else. A message has three parts: what was found, what was
wanted, and what to do now.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BundleError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "EndpointError",
    "GateError",
    "InterruptedByUser",
    "ModelError",
    "QzdError",
    "ResourceError",
    "SourceError",
    "UsageError",
]


class QzdError(Exception):
    """Base of all errors that a person can act on.

    Parameters
    ----------
    found : str
        What was found, with the path, key or tensor named.
    wanted : str, optional
        What was wanted instead.
    fix : str, optional
        What to do now, as an instruction.
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
    """A gate failed: accuracy below what was asked for, or a self-test that gave other boxes."""

    exit_code = 1
    code = "gate"


class UsageError(QzdError):
    """Wrong usage of a command or a function."""

    exit_code = 2
    code = "usage"


class ConfigError(UsageError):
    """A configuration file has an unknown key, a wrong type or a forbidden combination."""

    code = "config"


class ResourceError(QzdError):
    """A file, model or device could not be used."""

    exit_code = 3
    code = "resource"


class BundleError(ResourceError):
    """A bundle is missing, incomplete, damaged, or of another schema."""

    code = "bundle"


class ModelError(ResourceError):
    """A model cannot be read, or its tensors are not what its head needs."""

    code = "model"


class DeviceError(ResourceError):
    """The inference device is not there, refused the model, or failed while running it."""

    code = "device"


class DataError(ResourceError):
    """Images or annotations cannot be used."""

    code = "data"


class SourceError(ResourceError):
    """A stream's source cannot be opened or read."""

    code = "source"


class EndpointError(ResourceError):
    """A socket cannot be bound or reached."""

    code = "endpoint"


class InterruptedByUser(QzdError):  # noqa: N818 - an interruption is not an error
    """Ctrl-C, or SIGTERM to a command line tool."""

    exit_code = 4
    code = "interrupted_by_user"
