"""What the operating system does for keys in memory: no core dump, no look from the user's other processes, no swap.

Rule: asked of the system, never demanded. What it refuses is told (`refusals`) and stops nothing: an archive that opens
is worth more than a page that stays in memory. It does not hold against root on the running host (threat model, 11).
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
from collections.abc import Callable
from typing import Any, Final

try:
    import resource
except ImportError:  # a system without limits has none to lower
    resource = None  # type: ignore[assignment]

__all__ = ["forbid_dumps", "lock", "refusals"]

_PR_SET_DUMPABLE: Final = 4  # linux/prctl.h
_refused: dict[str, str] = {}  # what, and its way out; each is told once


def forbid_dumps() -> None:
    """Let nothing of this process be dumped or read by others of its user: setrlimit(RLIMIT_CORE) to 0, which children
    inherit, and prctl(PR_SET_DUMPABLE, 0), which exec undoes: each process asks for itself, before its first key.

    Both are needed: the limit does not hold where the kernel pipes dumps to a program (core(5)). From then on files of
    /proc/PID that tell of memory are root's, and only root attaches a debugger.
    """
    if resource is not None:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        except (OSError, ValueError) as error:
            _refuse("core dumps are not forbidden", error, "run it with `ulimit -c 0`, or LimitCORE=0 in its unit")
    if sys.platform == "linux" and _call(lambda libc: libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)):
        _refuse("other processes of the user may read its memory", _last_error(), "see prctl(2)")


def lock(block: mmap.mmap) -> None:
    """Keep a block of anonymous memory out of swap and core dumps: mlock, madvise(MADV_DONTDUMP)."""
    with contextlib.suppress(AttributeError, OSError):  # a system or kernel that does not know it
        block.madvise(mmap.MADV_DONTDUMP)
    address = ctypes.addressof(ctypes.c_char.from_buffer(block))
    if _call(lambda libc: libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(len(block)))):
        _refuse("keys in memory may be written to swap", _last_error(), "let it lock 8 MB: LimitMEMLOCK=8M in its unit")


def refusals() -> dict[str, str]:
    """Return what the system refused until now, as sentences, each with its way out. Empty where all was granted."""
    return dict(_refused)


def _call(function: Callable[[Any], int]) -> bool:
    """Whether a call of the C library failed; one that is not there counts as failed."""
    try:
        return function(ctypes.CDLL(None, use_errno=True)) != 0
    except (OSError, AttributeError):
        ctypes.set_errno(0)
        return True


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number) if number else "not known here")


def _refuse(what: str, error: Exception, way_out: str) -> None:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    _refused[f"{what}: {reason}"] = way_out
