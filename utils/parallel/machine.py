"""Cores of this process, and reuse of its memory on the CPU."""

from __future__ import annotations

import ctypes
import os
import sys

# mallopt's parameters by their numbers in malloc.h (maximum number of mapped blocks,
# their minimum size): to keep memory, and glibc's own after large blocks.
_LIMITS = {-4: (0, 65536), -3: (2**25, 2**25)}
_TRIM = -1  # how much may stay free at the end of the heap; the value -1: all


def cores() -> int:
    """CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory(keep: bool = True) -> None:
    """Let glibc reuse the memory of freed tensors.

    By default it maps every large tensor anew and returns it, so that the system clears
    the same pages in every step. Does nothing with other C libraries.

    Args:
        keep: False to return large tensors again, but not memory already kept.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_TRIM, -1)
            for parameter, values in _LIMITS.items():
                mallopt(parameter, values[not keep])
