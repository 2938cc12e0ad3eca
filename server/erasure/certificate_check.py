"""Check a certificate of erasure against a copy of the archive, without any key: its log, and its keyring if the copy
has one.

Rule: opens neither for writing and unwraps nothing.
"""

from collections.abc import Iterator

from coffer.archive import certificate_check
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.certificate import Certificate, CertifiedKey, Epoch
from coffer.keys.clock import clock_ms
from coffer.keys.disk import opening
from coffer.keys.inspect.remembered import read_remembered
from coffer.keys.keyring import rows
from coffer.keys.keyring.keepers import Burned, burned_in, groups_in, keepers_in
from coffer.keys.keyring.rows import EpochRow, EpochState
from coffer.keys.keyring.tombstone import Reason, Tombstone
from coffer.keys.store.keyring_store import KeyringStore, scan
from coffer.keys.store.lmdb_store import LmdbKeyringStore

__all__ = ["contradictions", "has_keyring"]


def has_keyring(folder: ArchiveFolder) -> bool:
    """Whether this copy of the log has a keyring beside it."""
    return opening.exists(folder.keyring / "data.mdb")


def contradictions(found: Certificate, folder: ArchiveFolder) -> Iterator[str]:
    """Yield what log and keyring contradict. Raises the same errors as `archive.certificate_check.contradictions`."""
    yield from certificate_check.contradictions(found, folder)
    if not has_keyring(folder):
        return
    complaint = read_remembered(folder.keyring).complaint  # in another process: damaged pages may kill it
    if complaint is not None:
        yield f"the keyring: {complaint}"
        return
    store = LmdbKeyringStore(folder.keyring, readonly=True)
    try:
        for key in found.keys:
            yield from _of_key(key, store, must_be_dropped=found.is_effective)
        if found.is_effective:
            yield from _of_others(found, store)
        for epoch in found.epochs:
            yield from _of_epoch(epoch, store, must_be_gone=found.is_effective)
    finally:
        store.close()


def _of_key(key: CertifiedKey, store: KeyringStore, *, must_be_dropped: bool) -> Iterator[str]:
    what, key_id = f"key {key.key[:8]}", bytes.fromhex(key.key)
    value = store.get(rows.TOMBSTONE_PREFIX + key_id)
    if value is None:
        yield f"{what}: the keyring has no tombstone of it, so the key lives in this copy"
        return
    tombstone = Tombstone.decode(value)
    successor = tombstone.successor.hex() if tombstone.reason is Reason.REKEYED else ""
    seen = tombstone.reason.name.lower(), successor, tombstone.scheduled_ms, tombstone.until_ms, tombstone.epoch
    if seen != (key.why, key.successor, key.gone_ms, key.backups_until_ms, key.last_epoch):
        yield f"{what}: the keyring's tombstone contradicts it"
    if must_be_dropped and store.get(rows.STUDY_PREFIX + key_id) is not None:
        yield f"{what}: its wrapped form is still in the keyring"


def _of_others(found: Certificate, store: KeyringStore) -> Iterator[str]:
    """Yield shredded keys of the same study that the certificate omits and that can still be opened."""
    tombstones = {place[1:]: Tombstone.decode(value) for place, value in scan(store, rows.TOMBSTONE_PREFIX)}
    ours = {bytes.fromhex(each.key) for each in found.keys}
    names = {tombstones[key_id].name for key_id in ours & tombstones.keys()}
    for key_id, tombstone in tombstones.items():
        if tombstone.name in names and key_id not in ours and _can_be_opened(key_id, tombstone, store):
            yield f"key {key_id.hex()[:8]}: it belongs to the same study, was shredded, and can still be opened"


def _can_be_opened(key_id: bytes, tombstone: Tombstone, store: KeyringStore) -> bool:
    """The same question as `server.engine.erasure_state` asks an open keyring, answered from the rows alone."""
    now, numbers = clock_ms(), range(1, tombstone.epoch + 1)
    ends = [store.get(rows.epoch_row_key(number)) for number in numbers]
    burned = burned_in(store)
    return (
        tombstone.until_ms > now
        or store.get(rows.STUDY_PREFIX + key_id) is not None
        or any(value is None or EpochRow.decode(value).state is not EpochState.DESTROYED for value in ends)
        or any(not each.is_ended or each.effective_ms > now for of in numbers for each in keepers_in(store, of))
        or any(
            of.epoch in numbers and burned.get(of.group, Burned()).left(of) >= of.threshold for of in groups_in(store)
        )
    )


def _of_epoch(epoch: Epoch, store: KeyringStore, *, must_be_gone: bool) -> Iterator[str]:
    """Compare openers and receipts with the keyring's; an opener without a receipt then may have one since."""
    what = f"epoch {epoch.epoch}"
    value = store.get(rows.epoch_row_key(epoch.epoch))
    if must_be_gone and (value is None or EpochRow.decode(value).state is not EpochState.DESTROYED):
        yield f"{what}: according to the keyring it is not destroyed"
        return
    ends = {each.id.hex(): (each.receipt_ms, each.effective_ms) for each in keepers_in(store, epoch.epoch)}
    burned = burned_in(store)
    for of in (of for of in groups_in(store) if of.epoch == epoch.epoch):
        closed = burned.get(of.group, Burned()).closed_ms
        ends[of.group.hex()] = closed, closed
    named = {each.id: each for each in epoch.openers}
    for each in epoch.openers:
        if each.id not in ends:
            yield f"{what}: the keyring does not know of {each.kind} {each.name}"
        elif each.record is not None and ends[each.id] != (each.receipt_ms, each.effective_ms):
            yield f"{what}: the keyring keeps another receipt of {each.kind} {each.name}"
    if must_be_gone and (more := ends.keys() - named.keys()):
        yield f"{what}: according to the keyring {len(more)} more could open it than the certificate says"
