"""Memory of the CPU: kept for the next step instead of being handed back."""

from __future__ import annotations

import ctypes
import sys

# mallopt's parameters by their numbers in malloc.h (most maps, their least size), to
# keep all, and as glibc has them after large blocks.
_LIMITS = {-4: (0, 65536), -3: (2**25, 2**25)}
_TRIM = -1  # what may lie free at the end of the heap; as a value: all of it


def keep_freed_memory(keep: bool = True) -> None:
    """Let the C library use the memory of freed tensors again.

    glibc maps every large tensor anew and gives it back, so that the system clears the
    same pages in every step. Nothing happens where the library is another one.

    Args:
        keep: False to give back large tensors again, but nothing that is kept by now.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_TRIM, -1)
            for parameter, values in _LIMITS.items():
                mallopt(parameter, values[not keep])
