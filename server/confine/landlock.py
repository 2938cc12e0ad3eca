"""Landlock: which files this process may open, to which TCP ports it may connect, whom it may signal.

Rule: holds for the calling thread and for what it starts from then on, and is never taken back. Rights that the
kernel's version does not know are left out, and named to the caller (landlock(7)).
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from coffer.server.confine.kernel import syscall
from coffer.server.confine.needs import Needs

__all__ = ["restrict", "version"]

# The same on every machine since Linux 5.13 (include/uapi/asm-generic/unistd.h).
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION: Final = 1
_PATH_BENEATH, _NET_PORT = 1, 2

# include/uapi/linux/landlock.h
_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_REG = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8
_TRUNCATE: Final = 1 << 14
_OF_FILES: Final = _WRITE_FILE | _READ_FILE | _TRUNCATE  # other rights are refused by the kernel for what is no folder
_READ: Final = _READ_FILE | _READ_DIR
_WRITE: Final = _READ | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE
_FILE_RIGHTS: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # by version
_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1  # version 4
_SCOPE_ABSTRACT_UNIX, _SCOPE_SIGNAL = 1 << 0, 1 << 1  # version 6
_NET_VERSION, _SCOPE_VERSION = 4, 6


def version() -> int:
    """The version of Landlock that this kernel supports and has switched on; 0: none."""
    return max(0, syscall(_CREATE_RULESET, None, 0, _GET_VERSION))


def restrict(needs: Needs, supported: int) -> list[str]:
    """Forbid everything that `needs` does not name, after `kernel.forbid_new_privileges`; returns, as phrases, what
    this version of Landlock cannot forbid. Raises OSError when nothing is restricted."""
    if not supported:
        return ["files, ports and signals (no Landlock)"]
    handled = next(rights for since, rights in reversed(_FILE_RIGHTS.items()) if since <= supported)
    net = _BIND_TCP | _CONNECT_TCP if supported >= _NET_VERSION else 0
    scoped = _SCOPE_ABSTRACT_UNIX | _SCOPE_SIGNAL if supported >= _SCOPE_VERSION else 0
    rules = _create(struct.pack("=QQQ", handled, net, scoped)[: _size(supported)])
    try:
        _allow(rules, needs.read, _READ & handled)
        _allow(rules, needs.write, _WRITE & handled)
        for port in sorted(needs.ports) if net else ():
            _require(syscall(_ADD_RULE, rules, _NET_PORT, struct.pack("=QQ", _CONNECT_TCP, port), 0))
        _require(syscall(_RESTRICT_SELF, rules, 0))
    finally:
        os.close(rules)
    lacking = [] if net else [f"ports (Landlock {supported})"]
    return lacking if scoped else [*lacking, f"signals (Landlock {supported})"]


def _size(supported: int) -> int:
    """How many bytes of the attributes this version reads."""
    return 8 if supported < _NET_VERSION else 16 if supported < _SCOPE_VERSION else 24


def _create(attributes: bytes) -> int:
    return _require(syscall(_CREATE_RULESET, attributes, len(attributes), 0))


def _allow(rules: int, paths: Iterable[Path], rights: int) -> None:
    for path in paths:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:  # then it cannot be read either
            continue
        try:
            allowed = rights if stat.S_ISDIR(os.fstat(fd).st_mode) else rights & _OF_FILES
            _require(syscall(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", allowed, fd), 0))
        finally:
            os.close(fd)


def _require(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
