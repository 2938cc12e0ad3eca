"""What somebody reads who takes the archive's disk: nothing, unless its key lies there too.

Rule: it compares volumes and opens no file.
"""

from pathlib import Path

from coffer.server.anchor.place import is_same_volume
from coffer.server.config.settings import Config

__all__ = ["exposed_key"]


def exposed_key(config: Config) -> str | None:
    """A sentence if the archive's own disk holds all that opens it, a key file with its passphrase, or without one;
    else None. For an archive that is not made yet, where it would be made."""
    keys = config.keys
    is_sealed = keys.passphrase_env or (
        keys.passphrase_file and not is_same_volume(keys.passphrase_file, config.archive)
    )
    if keys.provider != "file" or is_sealed or not is_same_volume(keys.key_file, config.archive):
        return None
    where = f"the key file {_shown(keys.key_file)} is on the archive's own disk"
    how = "with its passphrase" if keys.passphrase_file else "without a passphrase"
    return f"{where}, {how}: whoever takes that disk, or a copy of it, can open every object"


def _shown(path: Path) -> str:
    return str(path).encode("ascii", "backslashreplace").decode("ascii")
