"""Memory of the CPU: kept for the next step instead of being handed back."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of mallopt's parameters in malloc.h


def keep_freed_memory() -> None:
    """Let the C library use the memory of freed tensors again.

    glibc maps every large tensor anew and gives it back, so that the system clears the
    same pages in every step. Nothing happens where the library is another one.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_MMAP_MAX, 0)
            mallopt(_TRIM_THRESHOLD, -1)
