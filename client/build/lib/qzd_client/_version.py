"""The one home of the version of both distributions."""

__all__ = ["__version__"]

__version__ = "0.1.0"
