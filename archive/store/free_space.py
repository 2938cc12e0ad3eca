"""The free space on a volume, so that a store is refused before the disk is full instead of failing on a full disk.

Rule: code that writes what a sender sent (spool files, sealed files, the log) asks here first, for those bytes and for
what must follow them. The file system's own counter is the one that all processes share: written bytes are subtracted
at once. The reserve is for keyring, index, checkpoints and tiles, which do not ask: a failed write of theirs stops them
until a restart. Events in the log may use it too: they are few and small, and a deletion, which frees space, must not
wait for space.
"""

from pathlib import Path
from typing import Final

from coffer.keys.disk.volume import free_bytes
from coffer.keys.errors import UnavailableError

_OVERHEAD: Final = 64 << 10  # partly filled blocks, extents and directory entries of a few files


class FreeSpace:
    """A folder, and the space on its volume that is free above the reserve. Thread-safe."""

    def __init__(self, folder: Path, reserve_bytes: int) -> None:
        """`reserve_bytes` is how much of the volume stays free."""
        self.folder = folder
        self._reserve_bytes = reserve_bytes

    def require(self, count: int, *, into_reserve: bool = False) -> None:
        """Return if `count` more bytes can be written, using the reserve with `into_reserve`; one statvfs, about 2 us.

        Others may write at the same moment, so the reserve must be larger than a few groups. User quotas are not
        considered. Raises UnavailableError: retry when there is space again.
        """
        try:
            free = free_bytes(self.folder)
        except OSError as error:
            raise UnavailableError(f"the free space of the archive's volume is unknown: {error.strerror}") from error
        kept = 0 if into_reserve else self._reserve_bytes
        if free < kept + _OVERHEAD + count:
            if into_reserve:
                raise UnavailableError(
                    "the archive's volume is full", hint="free or add space; what waits is then resumed"
                )
            raise UnavailableError(
                "the archive's volume is full up to its reserve",
                hint="free or add space; stores are then taken again",
            )
