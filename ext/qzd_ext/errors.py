"""Every exception that qzd raises on purpose, and the exit code that each one means.

::

    QzdError                    a person can act on the message; never a traceback
     ├── GateError        (1)   a gate failed: accuracy, self-test
     ├── UsageError       (2)   wrong usage
     │    └── ConfigError (2)   a configuration file is wrong
     ├── ResourceError    (3)   a file, model or device could not be used
     │    ├── BundleError       a bundle is missing, damaged or from another schema
     │    ├── ModelError        a model cannot be read, or its tensors are not what its head needs
     │    ├── DeviceError       the inference device is not available, or failed
     │    ├── DataError         images or annotations cannot be used
     │    ├── SourceError       a stream cannot be opened or read
     │    └── EndpointError     a socket cannot be bound or reached
     └── InterruptedByUser (4)  Ctrl-C

What belongs here: the hierarchy and nothing else. A message has three parts: what was found, what was
wanted, and what to do now.
"""

from __future__ import annotations

from qzd_client.errors import (
    DataError,
    EndpointError,
    GateError,
    InterruptedByUser,
    QzdError,
    ResourceError,
    UsageError,
)

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


class ConfigError(UsageError):
    """A configuration file has an unknown key, a wrong type or a forbidden combination."""

    code = "config"


class BundleError(ResourceError):
    """A bundle is missing, incomplete, damaged, or of another schema."""

    code = "bundle"


class ModelError(ResourceError):
    """A model cannot be read, or its tensors are not what its head needs."""

    code = "model"


class DeviceError(ResourceError):
    """The inference device is not available, refused the model, or failed while running it."""

    code = "device"


class SourceError(ResourceError):
    """A stream's source cannot be opened or read."""

    code = "source"
