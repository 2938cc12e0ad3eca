"""The room that is left on a volume, so that a store is refused before the disk is full and not by the full disk.

Rule: whoever writes what a sender sent (spool files, sealed files, the log) asks here first, for that and for what must
follow it. The file system is the one account that all processes share: what is written is gone from it. The reserve is
for keyring, index, checkpoints and tiles, which do not ask: a write of theirs that fails stops them until a restart. It
is for events in the log too, which are few and small, and which a deletion, that makes room, must not wait for.
"""

import os
from pathlib import Path
from typing import Final

from coffer.keys.errors import UnavailableError

_OVERHEAD: Final = 64 << 10  # whole blocks, extents and folder entries of a few files


class Room:
    """A folder, and what may be written into it without touching its volume's reserve. Thread-safe."""

    def __init__(self, folder: Path, reserve_bytes: int) -> None:
        """`reserve_bytes` of the volume stay free."""
        self.folder = folder
        self._reserve_bytes = reserve_bytes

    def require(self, count: int, *, into_reserve: bool = False) -> None:
        """Return where `count` more bytes can be written, also `into_reserve` if so; one statvfs, about 2 us.

        Others may write at the same moment, so the reserve has to be more than a few groups. A quota of the user is not
        seen. Raises UnavailableError: retry when there is room again.
        """
        try:
            volume = os.statvfs(self.folder)
        except OSError as error:
            raise UnavailableError(f"the archive's volume cannot be asked: {error.strerror}") from error
        kept = 0 if into_reserve else self._reserve_bytes
        if volume.f_bavail * volume.f_frsize < kept + _OVERHEAD + count:
            if into_reserve:
                raise UnavailableError(
                    "the archive's volume is full", hint="free or add space; what waits then goes on"
                )
            raise UnavailableError(
                "the archive's volume is full up to its reserve", hint="free or add space; stores then go on"
            )
