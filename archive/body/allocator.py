"""The C library's allocator, told to keep large blocks, and Python's collector, told to look less often.

Objects of half a megabyte come and go with every store, and next to nothing of what it makes refers to itself.

Rule: a hint, once at the start of a process. Where the C library does not know it, nothing changes but speed.
"""

import ctypes
import gc
from typing import Final

_TRIM_THRESHOLD: Final = -1  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
_MMAP_THRESHOLD: Final = -3
_LARGEST_KEPT: Final = 32 << 20
_MOST_KEPT: Final = 64 << 20
_YOUNG: Final = 20_000  # objects made between two collections: some hundred stores


def keep_objects() -> None:
    """Never look again at what lives now, modules and caches that stay as long as the process, and rarely at the rest.

    Without it the collector took a tenth of the committing process's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 10, 10)


def keep_blocks() -> None:
    """Reuse blocks up to 32 MiB and give memory back to the system only above 64 MiB of it.

    Without it each buffer of an object is mapped, faulted in page by page and unmapped again, which costs as much as
    the codec's arithmetic.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
    mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
