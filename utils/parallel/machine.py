"""Cores of this process, and reuse of its memory on the CPU."""

import ctypes
import os
import sys

# Parameters of mallopt, by their numbers in malloc.h: a value that keeps freed memory,
# and the default.
_M_MMAP_MAX, _M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -4, -3, -1
_VALUES = {_M_MMAP_MAX: (0, 65536), _M_MMAP_THRESHOLD: (2**25, 2**25)}


def cores() -> int:
    """CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def loader_workers() -> int:
    """This rank's share of the cores it may run on, from 1 to 12."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(12, max(1, cores() // ranks))


def keep_freed_memory(keep: bool = True) -> None:
    """Let glibc reuse the memory of freed tensors.

    By default it maps every large tensor anew and returns it, so that the system clears
    the same pages in every step. ``keep=False`` returns large tensors again, but not
    memory already kept. Does nothing with other C libraries.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if mallopt := getattr(libc, "mallopt", None):
        mallopt(_M_TRIM_THRESHOLD, -1)  # never return the end of the heap
        for parameter, values in _VALUES.items():
            mallopt(parameter, values[not keep])
