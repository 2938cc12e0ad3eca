"""A segment that is sent to a target while it is verified: each piece is stored and read back, and only what came back
is given to whoever reads.

Rule: one pass over the log. The target's bytes are compared with those here, so their hash is needed once.
"""

import hashlib
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Final

from coffer.archive.copies.shelf import Shelf, ahead
from coffer.archive.copies.snapshot import Blob
from coffer.archive.copies.target import Stored
from coffer.archive.store.piece_source import PieceSource
from coffer.archive.store.source import Source
from coffer.keys.errors import IntegrityError, NotFoundError, UnavailableError, UnreadableError

__all__ = ["Courier", "Sending"]


class Courier:
    """Brings pieces to a shelf. `sent` tells of each: how many bytes it has, and whether it had to be uploaded; it is
    called by one thread at a time, and what it raises ends the run. Thread-safe."""

    def __init__(self, shelf: Shelf, sent: Callable[[int, bool], None]) -> None:
        """Raises as `look`."""
        self._shelf, self._sent = shelf, sent
        self._lock = threading.Lock()
        self._stored: dict[bytes, Stored] = {}
        self.look()

    def look(self) -> None:
        """List what the target has now. Raises UnavailableError."""
        self._stored = self._shelf.pieces()

    def bring(self, data: bytes) -> bytes:
        """Upload a piece unless the target returns just these bytes for its hash, and return the hash. Durable on
        return, and read back. Raises UnavailableError."""
        sha256 = hashlib.sha256(data).digest()
        stored = self._stored.get(sha256)
        is_new = stored is None or stored.size != len(data) or not self._returns(sha256, data)
        if is_new:
            self._shelf.put_piece(sha256, data)
            if not self._returns(sha256, data):
                raise UnavailableError(f"{self._shelf.target.name} does not return what was stored there")
        with self._lock:
            self._stored[sha256] = Stored(self._shelf.piece_name(sha256), len(data), 0)
            self._sent(len(data), is_new)
        return sha256

    def has(self, blob: Blob, piece_bytes: int) -> bool:
        """Whether every piece of a blob is listed with its size."""
        sizes = [piece_bytes] * (len(blob.pieces) - 1) + [blob.size - (len(blob.pieces) - 1) * piece_bytes]
        listed = [self._stored.get(each) for each in blob.pieces]
        return all(each is not None and each.size == size for each, size in zip(listed, sizes, strict=False))

    def _returns(self, sha256: bytes, data: bytes) -> bool:
        try:
            return self._shelf.target.get(self._shelf.piece_name(sha256), len(data)) == data
        except (IntegrityError, NotFoundError):
            return False


class Sending:
    """The first `size` bytes of what `opened` gives, on their way to a target."""

    def __init__(self, opened: Callable[[], Source], size: int, piece_bytes: int, courier: Courier) -> None:
        self._opened, self._size, self._piece_bytes = opened, size, piece_bytes
        self._courier = courier
        self._hashes: Final = [b""] * -(-size // piece_bytes)

    def open(self) -> Source:
        """The bytes as the target returns them, sent as they are read. Reading raises UnavailableError where the target
        fails, and as the source."""
        source = self._opened()
        return PieceSource(self._size, self._piece_bytes, partial(self._brought, source), source.close)

    def finish(self) -> Blob:
        """Send what nobody has read. Raises as reading it."""
        left = [number for number, sha256 in enumerate(self._hashes) if not sha256]
        if left:
            with closing(self._opened()) as source:
                for _ in ahead(self._brought, ((source, number) for number in left)):
                    pass
        return Blob(self._size, tuple(self._hashes))

    def _brought(self, source: Source, number: int) -> bytes:
        at = number * self._piece_bytes
        data = source.read(at, min(self._piece_bytes, self._size - at))
        if not self._hashes[number]:
            self._hashes[number] = self._courier.bring(data)
        elif hashlib.sha256(data).digest() != self._hashes[number]:
            raise UnreadableError(
                "what was sent reads differently now", hint="run coffer verify, then the backup again"
            )
        return data
