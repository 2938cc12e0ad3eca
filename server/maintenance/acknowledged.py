"""The findings of the scrub with the archive's key, which shows whether an acknowledgement is true.

Rule: reads beside a possible writer; the key is used, never kept.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.verify.findings import FindingStore
from coffer.keys.crypto import derive
from coffer.keys.errors import CofferError
from coffer.server.config.settings import Config
from coffer.server.engine.archive import ReadableArchive
from coffer.server.engine.providers import open_keyring, provider_of

__all__ = ["FOREIGN", "findings_as_far_as_known", "findings_of", "findings_with_key"]

FOREIGN: Final = (
    "findings of the scrub were marked as acknowledged without the archive's key, and count as not acknowledged: find "
    "out who can write the archive folder"
)


def findings_of(archive: ReadableArchive) -> FindingStore:
    """Return the findings of an open archive."""
    return FindingStore(archive.folder.scrub, key=archive.keyring.archive_key(derive.ACKNOWLEDGE))


@contextmanager
def findings_with_key(config: Config) -> Iterator[FindingStore]:
    """The findings of an archive that is not open, with its key. Raises as `Keyring.open`."""
    folder = ArchiveFolder.open(config.archive)
    keyring = open_keyring(folder, provider_of(config.keys, folder.archive_id), readonly=True)
    try:
        yield FindingStore(folder.scrub, key=keyring.archive_key(derive.ACKNOWLEDGE))
    finally:
        keyring.close()


@contextmanager
def findings_as_far_as_known(config: Config) -> Iterator[FindingStore]:
    """As `findings_with_key`; without the key if the keyring does not open, and then no acknowledgement is believed."""
    with ExitStack() as opened:
        try:
            found = opened.enter_context(findings_with_key(config))
        except CofferError:
            found = FindingStore(ArchiveFolder.open(config.archive).scrub)
        yield found
