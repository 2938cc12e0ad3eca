"""Hold a certificate of erasure against a copy of the archive, without any key: its log, and its keyring where it lies
beside it. Rule: it opens neither for writing and unwraps nothing.
"""

from collections.abc import Iterator

from archive import certified
from archive.certificate import Certificate, Epoch, Key
from archive.folder import ArchiveFolder
from keys import rows
from keys.destruction import Destruction
from keys.rows import EpochRow, EpochState
from keys.store import RowStore
from keys.tombstone import Reason, Tombstone
from keys.witness import read_witness

__all__ = ["contradictions", "has_keyring"]


def has_keyring(folder: ArchiveFolder) -> bool:
    """Whether a keyring lies beside this copy of the log."""
    return (folder.keyring / "data.mdb").is_file()


def contradictions(found: Certificate, folder: ArchiveFolder) -> Iterator[str]:
    """What log and keyring say otherwise. Raises as `archive.certified.contradictions`."""
    yield from certified.contradictions(found, folder)
    if not has_keyring(folder):
        return
    complaint = read_witness(folder.keyring).complaint  # in another process: damaged pages may end it
    if complaint is not None:
        yield f"the keyring: {complaint}"
        return
    store = RowStore(folder.keyring, readonly=True)
    try:
        for key in found.keys:
            yield from _of_key(key, store, must_be_dropped=found.is_effective)
        for epoch in found.epochs:
            yield from _of_epoch(epoch, store)
    finally:
        store.close()


def _of_key(key: Key, store: RowStore, *, must_be_dropped: bool) -> Iterator[str]:
    what, key_id = f"key {key.key[:8]}", bytes.fromhex(key.key)
    value = store.get(rows.TOMBSTONE_PREFIX + key_id)
    if value is None:
        yield f"{what}: the keyring has no tombstone of it, so the key lives in this copy"
        return
    stone = Tombstone.decode(value)
    successor = stone.successor.hex() if stone.reason is Reason.REKEYED else ""
    seen = stone.reason.name.lower(), successor, stone.scheduled_ms, stone.until_ms, stone.epoch
    if seen != (key.why, key.successor, key.gone_ms, key.backups_until_ms, key.last_epoch):
        yield f"{what}: the keyring's tombstone tells another end of it"
    if must_be_dropped and store.get(rows.STUDY_PREFIX + key_id) is not None:
        yield f"{what}: its wrapped form is still in the keyring"


def _of_epoch(epoch: Epoch, store: RowStore) -> Iterator[str]:
    if epoch.record is None:
        return  # it can have been destroyed since
    place = epoch.epoch.to_bytes(4, "big")
    row, receipt = store.get(rows.EPOCH_PREFIX + place), store.get(rows.DESTRUCTION_PREFIX + place)
    if row is None or receipt is None or EpochRow.decode(row).state is not EpochState.DESTROYED:
        yield f"epoch {epoch.epoch}: by the keyring it is not destroyed"
    elif Destruction.decode(receipt) != Destruction(epoch.receipt_ms or 0, epoch.effective_ms or 0):
        yield f"epoch {epoch.epoch}: the keyring keeps another receipt"
