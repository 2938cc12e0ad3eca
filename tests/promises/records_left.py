"""What a denied command leaves in the keyring: the record that it was denied, and nothing else."""

from contextlib import closing
from pathlib import Path

from coffer.archive.events.accesses import AccessRecorded, Act
from coffer.archive.events.recorded import Recorded
from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.crypto import derive
from coffer.keys.mailbox import events
from coffer.server.config.settings import Config
from coffer.server.engine.providers import open_keyring, provider_of
from coffer.server.mailbox.outbox import header_of
from tests.keyless import rows_of


def rows(folder: Path) -> dict[bytes, bytes]:
    """The rows of the keyring, but for the sums over them and their count."""
    return {key: value for key, value in rows_of(folder / "archive-data/keyring").items() if key[:1] not in b"SD"}


def left_since(config: Config, before: dict[bytes, bytes]) -> list[Act]:
    """What denials left in the keyring, and that nothing else was changed there."""
    after = rows(config.archive.parent)
    new = {key: value for key, value in after.items() if before.get(key) != value}
    assert not before.keys() - after.keys()
    assert all(key[:1] == b"P" for key in new)
    folder = ArchiveFolder.open(config.archive)
    with closing(open_keyring(folder, provider_of(config.keys, folder.archive_id), readonly=True)) as keyring:
        found = [each for each in events.waiting(keyring) if each.row_key in new]
        key = keyring.archive_key(derive.AUDIT)
        opened = [Recorded.open(key, folder.archive_id, header_of(each), each.body).event for each in found]
    return [act for each in opened if isinstance(each, AccessRecorded) for act in each.acts]
