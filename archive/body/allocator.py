"""Tuning of memory management: the C library keeps large blocks, and Python's garbage collector runs less often.

Every store makes and frees objects of half a megabyte, and almost none of them are part of a reference cycle.

Rule: only a hint, given once when a process starts. If the C library does not support it, only speed changes.
"""

import ctypes
import gc
from typing import Final

_TRIM_THRESHOLD: Final = -1  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
_MMAP_THRESHOLD: Final = -3
_LARGEST_KEPT: Final = 32 << 20
_MOST_KEPT: Final = 64 << 20
_YOUNG: Final = 20_000  # objects allocated between two collections: some hundred stores


def keep_objects() -> None:
    """Exempt what is alive now (modules and caches that live as long as the process) and collect the rest rarely.

    Without this the collector took a tenth of the committing process's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 10, 10)


def keep_blocks() -> None:
    """Reuse blocks of up to 32 MiB, and return free memory to the system only above 64 MiB.

    Without this each buffer of an object is mapped, faulted in page by page and unmapped again, which costs as much as
    the codec's arithmetic.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
    mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
