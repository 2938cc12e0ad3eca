"""What a confined process still needs: files to read, a folder to write in, TCP ports to connect to.

Rule: looks at nothing but Python's own paths; everything that is not named here is forbidden.
"""

import ipaddress
import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import coffer

__all__ = ["Needs", "is_name", "python_files"]

# Shared libraries, and what resolves names and time zones. /etc as a whole would include other programs' secrets.
_SYSTEM: Final = tuple(
    map(
        Path,
        (
            "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/dev/null",
            "/dev/urandom", "/etc/gai.conf", "/etc/host.conf", "/etc/hosts", "/etc/ld.so.cache", "/etc/localtime",
            "/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/services",
        ),
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Needs:
    """Files and folders to read, folders in which files may be made, changed and removed, TCP ports to connect to,
    whether names are resolved (which needs UDP), and the largest file that is written, in bytes."""

    read: tuple[Path, ...]
    write: tuple[Path, ...] = ()
    ports: frozenset[int] = frozenset()
    resolves: bool = False
    file_bytes: int | None = None


def python_files() -> tuple[Path, ...]:
    """What Python may still import and the C library read, by real path: the standard library, installed packages,
    Coffer's own floors, shared libraries, resolver and time zones. Not `sys.path` as it is: an entry of it may be a
    folder in which an archive lies beside its key file."""
    paths = sysconfig.get_paths()
    found = {Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found |= {Path(entry) for entry in sys.path if Path(entry).name in {"site-packages", "dist-packages"}}
    for folder in coffer.__path__:
        found.add(Path(folder))
        found |= set(Path(folder).iterdir())  # links to the floors in a checkout
    return tuple(sorted({Path(os.path.realpath(path)) for path in (*found, *_SYSTEM) if path.exists()}))


def is_name(host: str) -> bool:
    """Whether a host is a name that has to be resolved, and not an address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False
