"""System calls that Python has no function for, by number.

Rule: the only place of this room that calls the C library. Linux only; elsewhere every call fails with ENOSYS.
"""

import ctypes
import errno
import os
import sys
from typing import Any, Final

__all__ = ["forbid_new_privileges", "set_filter", "syscall"]

_SET_NO_NEW_PRIVS: Final = 38  # linux/prctl.h
_SET_SECCOMP, _MODE_FILTER = 22, 2  # linux/prctl.h, linux/seccomp.h


class _Program(ctypes.Structure):  # struct sock_fprog
    _fields_ = (("count", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def syscall(number: int, *arguments: int | bytes | None) -> int:
    """The result of a system call, -1 with `ctypes.get_errno` for a failure. Integers are passed as 64 bits."""
    if sys.platform != "linux":
        ctypes.set_errno(errno.ENOSYS)
        return -1
    passed: list[Any] = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return int(libc.syscall(ctypes.c_long(number), *passed))


def forbid_new_privileges() -> None:
    """Take from this thread, and what it starts, the gain of privileges by exec (set-user-ID programs), for ever:
    prctl(PR_SET_NO_NEW_PRIVS). Raises OSError."""
    _prctl(_SET_NO_NEW_PRIVS, ctypes.c_ulong(1))


def set_filter(program: bytes) -> None:
    """Put a filter of system calls (classic BPF, 8 bytes for each instruction) before those of this thread and of what
    it starts, for ever: prctl(PR_SET_SECCOMP), after `forbid_new_privileges`. Raises OSError."""
    _prctl(_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), ctypes.byref(_Program(len(program) // 8, program)))


def _prctl(option: int, *arguments: Any) -> None:
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    padding = [ctypes.c_ulong(0)] * (4 - len(arguments))
    if ctypes.CDLL(None, use_errno=True).prctl(option, *arguments, *padding):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
