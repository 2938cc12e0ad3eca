"""A target in memory, to hold the contract against a second implementation and to try things out.

Rule: nothing survives the process.
"""

import threading

from coffer.archive.copies.target import MOST_BYTES, Stored, Target, require_name
from coffer.keys.buffer import Buffer
from coffer.keys.errors import IntegrityError, NotFoundError

__all__ = ["MemoryTarget"]


class MemoryTarget(Target):
    """Objects in a dictionary. `now_ms` is the target's clock; a test moves it."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.now_ms = 0
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The word `memory`."""
        return "memory"

    def put(self, name: str, data: Buffer) -> None:
        """A copy of the bytes."""
        with self._lock:
            self.objects[require_name(name)] = (bytes(data), self.now_ms)

    def get(self, name: str, most: int = MOST_BYTES) -> bytes:
        """As `Target.get`."""
        try:
            data = self.objects[require_name(name)][0]
        except KeyError:
            raise NotFoundError(f"{name} is not in memory") from None
        if len(data) > most:
            raise IntegrityError(f"{name} is larger than the {most} bytes that Coffer ever writes there")
        return data

    def read(self, name: str, offset: int, length: int) -> bytes:
        """As `Target.read`."""
        data = self.get(name)[offset : offset + length]
        if len(data) != length:
            raise IntegrityError(f"{name} in memory is too short")
        return data

    def list(self, prefix: str) -> list[Stored]:
        """As `Target.list`."""
        with self._lock:
            found = [Stored(name, len(data), at) for name, (data, at) in self.objects.items()]
        return sorted(each for each in found if each.name.startswith(prefix))

    def remove(self, name: str) -> None:
        """As `Target.remove`."""
        with self._lock:
            self.objects.pop(require_name(name), None)
