"""Pixels to boxes: what the daemon and the tools both stand on.

Modules, in the order in which data passes them: `manifest` and `bundle` say what a model needs,
`geometry` fits a frame to its input, `runner` infers, `decode` turns tensors into `detections`,
and `detector` is the whole of it in one call.
"""

from qzd_client._version import __version__

__all__ = ["__version__"]
