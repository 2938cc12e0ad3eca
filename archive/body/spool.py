"""A buffer for one object's bytes: in memory up to a limit, beyond it in a file encrypted under an ephemeral key.

Rule: the key never leaves memory, so what a crash leaves behind is noise; the file is removed at `close`, or at the
next start. Each chunk has its own counter as nonce, under a key for this one file (NIST SP 800-38D 8.2.1), which
depends on what the file begins with and on the time, as well as on randomness.
"""

import contextlib
import os
import re
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from coffer.archive.store.free_space import FreeSpace
from coffer.keys.crypto.hedge import Random, first_key
from coffer.keys.disk import opening
from coffer.keys.disk.durable import discard
from coffer.keys.disk.reading import read_exactly
from coffer.keys.errors import IntegrityError, UnavailableError

_CHUNK: Final = 1 << 16
_TAG: Final = 16
_BATCH: Final = 16 * _CHUNK
_SUFFIX: Final = ".spool"
_SEALED: Final = ".sealed"
_OURS: Final = re.compile(r"[0-9a-f]{16}\.(?:spool|sealed)")


def clear_stale(folder: Path) -> int:
    """Remove what a crash left in the spool folder and return the number of files. Only the writer may call this.

    Names that a spool does not use, and anything but regular files, are left alone. A file that cannot be removed, for
    example on a volume that became read-only, is harmless: nothing in it is readable. Raises IntegrityError if the
    folder is a link.
    """
    stale = [folder / name for name in opening.names(folder) if _OURS.fullmatch(name)]
    files = [path for path in stale if (found := opening.status(path)) is not None and stat.S_ISREG(found.st_mode)]
    for path in files:
        discard(path)
    return len(files)


@contextlib.contextmanager
def sealed_file(space: FreeSpace) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file for a sealed body in the folder of `space`, open while the block runs; removed if the block fails.

    Raises UnavailableError.
    """
    path = space.folder / (os.urandom(8).hex() + _SEALED)
    try:
        with os.fdopen(opening.create(path), "w+b") as out:
            yield path, out
    except OSError as error:
        discard(path)
        raise UnavailableError(f"cannot seal an object: {error.strerror}", hint="check the volume") from error
    except BaseException:
        discard(path)
        raise


class MemoryBudget:
    """The memory in bytes that all spools may use together. Thread-safe."""

    def __init__(self, total_bytes: int) -> None:
        self._free = total_bytes
        self._lock = threading.Lock()

    def take(self, count: int) -> bool:
        """Reserve `count` bytes; False, with nothing reserved, if fewer are free."""
        with self._lock:
            if count > self._free:
                return False
            self._free -= count
            return True

    def give(self, count: int) -> None:
        """Release `count` bytes that were taken."""
        with self._lock:
            self._free += count


class Spool:
    """One object's bytes: appended in order, read in any order. Used by one thread at a time."""

    def __init__(self, space: FreeSpace, budget: MemoryBudget, memory_bytes: int, random: Random = os.urandom) -> None:
        """`space` is that of the spool folder, `memory_bytes` this object's share of memory."""
        self._space = space
        self._budget = budget
        self._memory_bytes = memory_bytes
        self._random = random
        self._parts: list[bytes] = []  # as written; once there is a file, what does not fill a chunk yet
        self._reserved = 0
        self._file = -1
        self._path: Path | None = None
        self._cipher: AESGCM | None = None
        self._chunks = 0
        self.size = 0

    @property
    def is_in_memory(self) -> bool:
        """Whether `parts` are the whole object."""
        return self._file < 0

    def write(self, data: bytes) -> None:
        """Append bytes. Raises UnavailableError if there is no space for them, or the disk does not take them."""
        count = len(data)
        if self.is_in_memory and not self.reserve(self.size + count):
            self._open_file()
        self._parts.append(data)
        self.size += count
        if not self.is_in_memory:
            self._flush()

    def reserve(self, total: int) -> bool:
        """Reserve memory for this many bytes in total; False if there is too little. Reserves in large steps, so that
        the shared budget is rarely locked."""
        if total > self._memory_bytes:
            return False
        if total <= self._reserved:
            return True
        more = min(max(total - self._reserved, 1 << 20), self._memory_bytes - self._reserved)
        if not self._budget.take(more):
            return False
        self._reserved += more
        return True

    def parts(self) -> Sequence[bytes]:
        """The parts of an object that is in memory, as they were written."""
        assert self.is_in_memory, "this object is in a file"
        return self._parts

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop), fewer at the end. Raises UnavailableError, IntegrityError."""
        stop = min(stop, self.size)
        on_disk = self._chunks * _CHUNK
        parts = []
        if start < min(stop, on_disk):
            first, last = start // _CHUNK, (min(stop, on_disk) - 1) // _CHUNK
            plain = b"".join(self._chunk(i) for i in range(first, last + 1))
            parts.append(plain[start - first * _CHUNK : stop - first * _CHUNK])
        if stop > on_disk:
            parts += self._held(max(start - on_disk, 0), stop - on_disk)
        return b"".join(parts)

    def _held(self, start: int, stop: int) -> Iterator[bytes]:
        at = 0
        for part in self._parts:
            if start < at + len(part) and at < stop:
                yield part[max(start - at, 0) : stop - at]
            at += len(part)

    def close(self) -> None:
        """Drop everything and remove the file. Idempotent."""
        self._parts = []
        self._budget.give(self._reserved)
        self._reserved = 0
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._path is not None:
            discard(self._path)
            self._path = None

    def _open_file(self) -> None:
        path = self._space.folder / (os.urandom(8).hex() + _SUFFIX)
        try:
            self._file = opening.create(path)
        except OSError as error:
            raise UnavailableError(f"cannot spool an object: {error.strerror}", hint="check the volume") from error
        self._path = path
        beginning = b"".join(self._parts)[:_CHUNK]  # it has the object's UIDs
        self._cipher = AESGCM(first_key(self._random, beginning, time.time_ns().to_bytes(8, "big")).reveal())
        self._flush()
        self._budget.give(self._reserved)
        self._reserved = 0

    def _flush(self) -> None:
        """Encrypt whole chunks to the file; the rest stays in memory."""
        held = memoryview(b"".join(self._parts))
        whole = len(held) // _CHUNK * _CHUNK
        for start in range(0, whole, _BATCH):
            self._append(held[start : min(start + _BATCH, whole)])
        self._parts = [bytes(held[whole:])]

    def _append(self, plain: memoryview) -> None:
        assert self._cipher is not None
        at, sealed = self._chunks * (_CHUNK + _TAG), []
        for start in range(0, len(plain), _CHUNK):
            sealed.append(self._cipher.encrypt(self._nonce(self._chunks), plain[start : start + _CHUNK], None))
            self._chunks += 1
        data = b"".join(sealed)
        spooled = at + len(data)
        self._space.require(len(data) + 2 * spooled)  # its sealed file, and its record in the log, take as much again
        try:
            while data:
                count = os.pwrite(self._file, data, at)
                data, at = data[count:], at + count
        except OSError as error:
            raise UnavailableError(f"cannot spool an object: {error.strerror}", hint="check the volume") from error

    def _chunk(self, index: int) -> bytes:
        assert self._cipher is not None
        sealed = read_exactly(self._file, index * (_CHUNK + _TAG), _CHUNK + _TAG)
        try:
            return self._cipher.decrypt(self._nonce(index), sealed, None)
        except Exception as error:  # cryptography raises InvalidTag, or ValueError for a cut chunk
            raise IntegrityError("a spooled object was altered on disk", hint="send the object again") from error

    @staticmethod
    def _nonce(index: int) -> bytes:
        return index.to_bytes(12, "big")
