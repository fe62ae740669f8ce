"""The C library's allocator, told how this process uses memory.

Frames and tensors are large, short-lived, and freed by another thread than the one that made them. glibc
learns from that to keep them in its arenas, one a thread, where they stay resident. With a fixed threshold
each large block is its own mapping and goes back to the system when it is freed. Source: mallopt(3).
"""

from __future__ import annotations

import ctypes

__all__ = ["return_large_blocks"]

M_MMAP_THRESHOLD = -3
LARGE_BYTES = 256 * 1024


def return_large_blocks() -> None:
    """Let blocks above LARGE_BYTES go back to the system at once; nothing happens without glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
