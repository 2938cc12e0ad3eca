"""Confine this process for the rest of its life.

Rule: best effort, because a server on an older kernel must still receive: what the kernel cannot forbid is returned,
for the log and for /readyz, and stops nothing. Threads that already run are not confined, so it comes before the first.
"""

import os
import platform
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Final

from coffer.server.confine import kernel, landlock, seccomp
from coffer.server.confine.needs import Needs

__all__ = ["confine"]

_LEAVING_SECONDS: Final = 0.1


def confine(needs: Needs) -> tuple[str, ...]:
    """Forbid this process, and all threads that it starts, whatever `needs` does not name: new privileges, files,
    ports, programs, other processes, dangerous system calls, and larger files. Returns, as phrases, what could not be
    forbidden; empty when everything was."""
    if sys.platform != "linux":
        return ("everything (not Linux)",)
    lacking = ["threads that already ran"] if _threads() > 1 else []
    _limit_files(needs.file_bytes)
    try:
        kernel.forbid_new_privileges()
    except OSError as error:
        return (*lacking, f"everything ({error.strerror})")
    try:
        lacking += landlock.restrict(needs, landlock.version())
    except OSError as error:
        lacking.append(f"files, ports and signals (Landlock: {error.strerror})")
    machine = platform.machine()
    if machine not in seccomp.MACHINES:
        return (*lacking, f"system calls (no filter for {machine})")
    try:
        kernel.set_filter(seccomp.program(machine, needs, os.getpid()))
    except OSError as error:
        lacking.append(f"system calls (seccomp: {error.strerror})")
    return tuple(lacking)


def _threads() -> int:
    """How many threads this process has, those of C libraries included."""
    end = time.monotonic() + _LEAVING_SECONDS
    try:
        while (count := sum(1 for _ in Path("/proc/self/task").iterdir())) > 1:
            if threading.active_count() > 1 or time.monotonic() > end:
                break
            time.sleep(0.001)  # to Python one that has been joined is gone, to the kernel a moment later
    except OSError:
        return threading.active_count()
    return count


def _limit_files(largest: int | None) -> None:
    """Python ignores SIGXFSZ, so that a longer write fails with EFBIG."""
    if largest is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = largest if hard == resource.RLIM_INFINITY else min(largest, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
