"""Check the rows of the keyring with the keys of their sums: what `verify --level decrypt` adds to a look without.

Rule: reads only, beside a possible writer; without a key, only accidents are found (`server.maintenance.offline`).
"""

from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.verify.report import Finding
from coffer.server.config.settings import Config
from coffer.server.engine.providers import open_keyring, provider_of

__all__ = ["inspect_with_keys"]


def inspect_with_keys(config: Config) -> list[Finding]:
    """Return what somebody without a key did to rows of the keyring. Raises as `Keyring.open`."""
    folder = ArchiveFolder.open(config.archive)
    keyring = open_keyring(folder, provider_of(config.keys, folder.archive_id), readonly=True)
    try:
        complaint = keyring.complaint()
    finally:
        keyring.close()
    return [] if complaint is None else [Finding(0, 0, None, f"the keyring: {complaint}")]
