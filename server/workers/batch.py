"""Objects that are committed together, their bodies copied out of the memory shared with workers.

Rule: a worker can change shared memory at any time, so what is hashed and written is a private copy. Copies share one
block that is reused for every batch; when a body does not fit, the batch is full.
"""

from typing import Final

from coffer.server.engine.commit import Parcel
from coffer.server.workers.client import Client

__all__ = ["Batch"]

_BLOCK_BYTES: Final = 16 << 20  # some sixty CT slices; a larger body gets its own memory and its own batch


class Batch:
    """Clients and the parcels that they want committed, in order of arrival."""

    def __init__(self) -> None:
        self._block = memoryview(bytearray(_BLOCK_BYTES))
        self._used = 0
        self.parcels: list[tuple[Client, Parcel]] = []

    def __len__(self) -> int:
        return len(self.parcels)

    def has_room(self, length: int) -> bool:
        """Whether a body of `length` bytes still fits. An empty batch takes any."""
        return not self.parcels or self._used + length <= _BLOCK_BYTES

    def copy(self, body: memoryview) -> memoryview:
        """A copy that is valid for this batch only, of a body that `has_room` allowed."""
        if len(body) > _BLOCK_BYTES:
            self._used = _BLOCK_BYTES
            return memoryview(bytes(body))
        mine = self._block[self._used : self._used + len(body)]
        mine[:] = body
        self._used += len(body)
        return mine

    def take(self) -> list[tuple[Client, Parcel]]:
        """Empty the batch and return its content; the bodies are valid until the next `copy`."""
        parcels, self.parcels, self._used = self.parcels, [], 0
        return parcels
