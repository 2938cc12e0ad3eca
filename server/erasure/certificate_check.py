"""Hold a certificate of erasure against a copy of the archive, without any key: its log, and its keyring where it lies
beside it. Rule: it opens neither for writing and unwraps nothing.
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
from coffer.keys.keyring.store import RowStore
from coffer.keys.keyring.tombstone import Reason, Tombstone

__all__ = ["contradictions", "has_keyring"]


def has_keyring(folder: ArchiveFolder) -> bool:
    """Whether a keyring lies beside this copy of the log."""
    return opening.exists(folder.keyring / "data.mdb")


def contradictions(found: Certificate, folder: ArchiveFolder) -> Iterator[str]:
    """What log and keyring say otherwise. Raises as `archive.certificate_check.contradictions`."""
    yield from certificate_check.contradictions(found, folder)
    if not has_keyring(folder):
        return
    complaint = read_remembered(folder.keyring).complaint  # in another process: damaged pages may end it
    if complaint is not None:
        yield f"the keyring: {complaint}"
        return
    store = RowStore(folder.keyring, readonly=True)
    try:
        for key in found.keys:
            yield from _of_key(key, store, must_be_dropped=found.is_effective)
        if found.is_effective:
            yield from _of_others(found, store)
        for epoch in found.epochs:
            yield from _of_epoch(epoch, store, must_be_gone=found.is_effective)
    finally:
        store.close()


def _of_key(key: CertifiedKey, store: RowStore, *, must_be_dropped: bool) -> Iterator[str]:
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


def _of_others(found: Certificate, store: RowStore) -> Iterator[str]:
    """Shredded keys of the same study that the certificate does not tell of, and that can be opened yet."""
    stones = {place[1:]: Tombstone.decode(value) for place, value in store.scan(rows.TOMBSTONE_PREFIX)}
    ours = {bytes.fromhex(each.key) for each in found.keys}
    names = {stones[key_id].name for key_id in ours & stones.keys()}
    for key_id, stone in stones.items():
        if stone.name in names and key_id not in ours and _can_be_opened(key_id, stone, store):
            yield f"key {key_id.hex()[:8]}: it is the same study's, was shredded, and can be opened yet"


def _can_be_opened(key_id: bytes, stone: Tombstone, store: RowStore) -> bool:
    """As `server.engine.erasure_state` asks it of an open keyring, by the rows alone."""
    now, numbers = clock_ms(), range(1, stone.epoch + 1)
    ends = [store.get(rows.epoch_row_key(number)) for number in numbers]
    burned = burned_in(store)
    return (
        stone.until_ms > now
        or store.get(rows.STUDY_PREFIX + key_id) is not None
        or any(value is None or EpochRow.decode(value).state is not EpochState.DESTROYED for value in ends)
        or any(not each.is_ended or each.effective_ms > now for of in numbers for each in keepers_in(store, of))
        or any(
            of.epoch in numbers and burned.get(of.group, Burned()).left(of) >= of.threshold for of in groups_in(store)
        )
    )


def _of_epoch(epoch: Epoch, store: RowStore, *, must_be_gone: bool) -> Iterator[str]:
    """What opened it by the keyring, and which receipts that keeps; what had none then can have one since."""
    what = f"epoch {epoch.epoch}"
    value = store.get(rows.epoch_row_key(epoch.epoch))
    if must_be_gone and (value is None or EpochRow.decode(value).state is not EpochState.DESTROYED):
        yield f"{what}: by the keyring it is not destroyed"
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
        yield f"{what}: by the keyring {len(more)} more could open it than the certificate tells"
