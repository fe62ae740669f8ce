"""The C library's allocator, told how this process uses memory.

glibc gives each thread an arena of its own, and what a thread has freed stays resident in its arena. Frames
are large and freed by other threads than those that made them, so with an arena for each stream, memory
grows with the streams and not with what is in use. Two arenas serve as well. Source: mallopt(3).
"""

from __future__ import annotations

import ctypes

__all__ = ["share_arenas"]

M_ARENA_MAX = -8
ARENAS = 2


def share_arenas() -> None:
    """Let all threads share ARENAS arenas; nothing happens without glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, ARENAS)
