"""Process hardening for keys in memory: no core dumps, no access by the user's other processes, no swap.

Rule: best effort. What the system refuses is reported (`refusals`) and stops nothing: an archive that opens is worth
more than a page that stays out of swap. It does not protect against root on the running host (threat model, 11).
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
_refused: dict[str, str] = {}  # what was refused, and its remedy; each is reported once


def forbid_dumps() -> None:
    """Forbid core dumps, and reads of this memory by the user's other processes: setrlimit(RLIMIT_CORE) to 0, which
    children inherit, and prctl(PR_SET_DUMPABLE, 0), which exec undoes: each process calls this before its first key.

    Both are needed: the limit has no effect where the kernel pipes dumps to a program (core(5)). Afterwards root owns
    the files in /proc/PID that expose memory, and only root can attach a debugger.
    """
    if resource is not None:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        except (OSError, ValueError) as error:
            _refused_by("core dumps are not forbidden", error, "run it with `ulimit -c 0`, or LimitCORE=0 in its unit")
    if sys.platform == "linux" and _call(lambda libc: libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)):
        _refused_by("other processes of the user may read its memory", _last_error(), "see prctl(2)")


def lock(block: mmap.mmap) -> None:
    """Keep a block of anonymous memory out of swap and core dumps: mlock, madvise(MADV_DONTDUMP). Never raises."""
    with contextlib.suppress(AttributeError, OSError):  # this system or kernel does not support it
        block.madvise(mmap.MADV_DONTDUMP)
    address = ctypes.addressof(ctypes.c_char.from_buffer(block))
    if _call(lambda libc: libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(len(block)))):
        _refused_by(
            "keys in memory may be written to swap", _last_error(), "let it lock 8 MB: LimitMEMLOCK=8M in its unit"
        )


def refusals() -> dict[str, str]:
    """Return what the system has refused so far, as sentences, each with its remedy. Empty where it refused nothing."""
    return dict(_refused)


def _call(function: Callable[[Any], int]) -> bool:
    """Whether a C library call failed; a missing function counts as a failure."""
    try:
        return function(ctypes.CDLL(None, use_errno=True)) != 0
    except (OSError, AttributeError):
        ctypes.set_errno(0)
        return True


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number) if number else "not supported here")


def _refused_by(what: str, error: Exception, remedy: str) -> None:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    _refused[f"{what}: {reason}"] = remedy
