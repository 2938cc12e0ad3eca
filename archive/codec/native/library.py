"""Which compiled library belongs to this source, and whether it is here.

Rule: the file's name has the hash of the source it was built from, so a library of another version is never loaded: it
has another name. The build (`setup.py` at the top of the repository) asks here for that name, and imports nothing else.
"""

import ctypes
import hashlib
import platform
import sys
from pathlib import Path
from typing import Final

__all__ = ["SOURCES", "file_name", "load"]

SOURCES: Final = ("kernel.c", "word.h")
_HERE: Final = Path(__file__).parent
_NO_LIBRARY: Final = "no library was compiled for this version of it"


def file_name(machine: str) -> str:
    """The name of the library for a processor, as `platform.machine` calls it."""
    digest = hashlib.sha256()
    for name in SOURCES:
        content = (_HERE / name).read_bytes()
        digest.update(len(content).to_bytes(8, "big") + content)
    return f"kernel-{digest.hexdigest()[:16]}-{machine.lower()}.so"


def load() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    if sys.byteorder != "little":
        return "this machine is big endian"
    try:
        path = _HERE / file_name(platform.machine())
        if not path.is_file():
            return _NO_LIBRARY
        return ctypes.CDLL(str(path))
    except OSError:  # for another C library, on a volume that may not be executed, or without its source beside it
        return "its library cannot be loaded on this machine"
