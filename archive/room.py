"""The room that is left on a volume, so that a store is refused before the disk is full and not by the full disk.

Rule: whoever writes what a sender sent (spool files, sealed files, the log) asks here first, for that and for what must
follow it. The file system is the one account that all processes share: what is written is gone from it. The reserve is
for keyring, index, checkpoints and tiles, which do not ask: a write of theirs that fails stops them until a restart.
"""

import os
from pathlib import Path
from typing import Final

from keys.errors import UnavailableError

_OVERHEAD: Final = 64 << 10  # whole blocks, extents and folder entries of a few files


class Room:
    """A folder, and what may be written into it without touching its volume's reserve. Thread-safe."""

    def __init__(self, folder: Path, reserve_bytes: int) -> None:
        """`reserve_bytes` of the volume stay free."""
        self.folder = folder
        self._reserve_bytes = reserve_bytes

    def require(self, count: int) -> None:
        """Return where `count` more bytes can be written; one statvfs, about 2 us.

        Others may write at the same moment, so the reserve has to be more than a few groups. A quota of the user is not
        seen. Raises UnavailableError: retry when there is room again.
        """
        try:
            volume = os.statvfs(self.folder)
        except OSError as error:
            raise UnavailableError(f"the archive's volume cannot be asked: {error.strerror}") from error
        if volume.f_bavail * volume.f_frsize < self._reserve_bytes + _OVERHEAD + count:
            raise UnavailableError(
                "the archive's volume is full up to its reserve", hint="free or add space; stores then go on"
            )
