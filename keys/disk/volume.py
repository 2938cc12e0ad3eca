"""How much room a volume has."""

import os
from pathlib import Path

__all__ = ["free_bytes"]


def free_bytes(path: Path) -> int:
    """The bytes that anybody but root can still write on the volume of `path`; about 2 us. Raises OSError.

    Quotas of the user are not considered.
    """
    volume = os.statvfs(path)
    return volume.f_bavail * volume.f_frsize
