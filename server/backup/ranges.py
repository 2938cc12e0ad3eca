"""A segment at a near target, read by ranges: for who wants little of it, and proves what it reads by the signed root.

Rule: nothing is compared with a piece's hash. Whoever reads here compares headers with the tree, and opens bodies.
"""

from coffer.archive.copies.shelf import Shelf
from coffer.archive.copies.snapshot import Blob
from coffer.archive.store.source import Source
from coffer.keys.errors import FormatError, IntegrityError, NotFoundError, UnavailableError, UnreadableError

__all__ = ["RangeSource"]


class RangeSource(Source):
    """The bytes of a blob at a target, as they are there now."""

    def __init__(self, shelf: Shelf, blob: Blob, piece_bytes: int) -> None:
        self._shelf, self._blob, self._piece_bytes = shelf, blob, piece_bytes

    @property
    def size(self) -> int:
        """As the snapshot says."""
        return self._blob.size

    def read(self, offset: int, length: int) -> bytes:
        """As `Source.read`; UnreadableError where a piece is missing or too short, or cannot be had now."""
        if offset + length > self._blob.size:
            raise FormatError(f"the file ends {offset + length - self._blob.size} bytes too early")
        found = []
        while length:
            number, inside = divmod(offset, self._piece_bytes)
            taken = min(length, self._piece_bytes - inside)
            name = self._shelf.piece_name(self._blob.pieces[number])
            try:
                found.append(self._shelf.target.read(name, inside, taken))
            except (IntegrityError, NotFoundError, UnavailableError) as error:
                raise UnreadableError(
                    f"cannot be read: {error}", hint="take another snapshot, or another target"
                ) from error
            offset, length = offset + taken, length - taken
        return b"".join(found)
