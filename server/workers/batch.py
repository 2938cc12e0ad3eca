"""The objects that are committed together, their bodies copied out of the memory that workers share.

Rule: a worker can change shared memory at any time, so what is hashed and written is a copy that nobody else has.
Copies lie in one block that is used again for every batch; what does not fit makes the batch full.
"""

from typing import Final

from coffer.server.engine.commit import Parcel
from coffer.server.workers.client import Client

__all__ = ["Batch"]

_BLOCK_BYTES: Final = 16 << 20  # some sixty CT slices; a larger body has memory of its own and a batch to itself


class Batch:
    """Clients and what they want to have committed, in the order in which it came."""

    def __init__(self) -> None:
        self._block = memoryview(bytearray(_BLOCK_BYTES))
        self._used = 0
        self.parcels: list[tuple[Client, Parcel]] = []

    def __len__(self) -> int:
        return len(self.parcels)

    def has_room(self, length: int) -> bool:
        """Whether a body of so many bytes goes with the others. An empty batch takes any."""
        return not self.parcels or self._used + length <= _BLOCK_BYTES

    def copy(self, body: memoryview) -> memoryview:
        """The same bytes, for this batch only. Takes what `has_room` allowed."""
        if len(body) > _BLOCK_BYTES:
            self._used = _BLOCK_BYTES
            return memoryview(bytes(body))
        mine = self._block[self._used : self._used + len(body)]
        mine[:] = body
        self._used += len(body)
        return mine

    def take(self) -> list[tuple[Client, Parcel]]:
        """What is in it; it is empty then, and the bodies are valid until the next `copy`."""
        parcels, self.parcels, self._used = self.parcels, [], 0
        return parcels
