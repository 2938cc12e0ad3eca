"""Check an index with its key: whether its rows are those that were written, and are what the log has.

Rule: reads only, beside the process that writes. LMDB may crash on damaged pages: look without a key before
(`index.keyless_check`), in another process. The log decides; that it is as it was written is checked elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from coffer.archive.format.entry import OWN_LOG, Position
from coffer.archive.format.merkle import leaf_hash
from coffer.archive.format.record import Kind, RecordHeader
from coffer.index.backends.lmdb_store import LmdbRowStore
from coffer.index.backends.row_store import IndexRowStore
from coffer.index.tables.applied import Mark
from coffer.index.tables.progress import marks_in, skipped_in
from coffer.index.tables.row_cipher import RowCipher
from coffer.index.tables.rows import StudyRow
from coffer.index.tables.skipped import Skipped
from coffer.keys.crypto.derive import INDEX_SUM
from coffer.keys.errors import IntegrityError, KeyUnavailableError, ShreddedError
from coffer.keys.keyring import rekey, shred
from coffer.keys.keyring.keyring import Keyring

__all__ = ["Held", "LogRecords", "belongs_to", "check_with_key", "contradiction"]

_MOST_TRIES: Final = 5  # keys may change while both sides are counted


class LogRecords(Protocol):
    """The records of one log."""

    def records(self, from_seq: int) -> Iterator[tuple[Position, RecordHeader]]:
        """Yield the records in order, starting at the first one whose seq is at least `from_seq`."""


@dataclass(frozen=True, slots=True)
class Held:
    """What an index holds at one moment: how far its log is in it, which records it skipped, and the number of objects
    under keys that open them, each version counted.

    Parts of studies are not compared: a part is as the site's rules for issuers have it, and a key as they had it once.
    """

    mark: Mark | None
    skipped: Skipped
    objects: int


def check_with_key(folder: Path, keyring: Keyring, log: LogRecords) -> str | None:
    """Return what is wrong with an archive's index, or None. Raises UnavailableError, also where there is none,
    and IntegrityError.

    First all rows are compared with their sums, then the counts with the log's (`contradiction`). Takes about 4 us for
    a row, and 100 us for a part of a study.
    """
    store = LmdbRowStore(folder, readonly=True)
    try:
        store.authenticate(keyring.archive_key(INDEX_SUM), bytes)
        return store.complaint() or contradiction(lambda: _stored(store, keyring), keyring, log)
    finally:
        store.close()


def contradiction(
    held: Callable[[], Held], keyring: Keyring, log: LogRecords, go_on: Callable[[], bool] = lambda: True
) -> str | None:
    """Return how what an index holds contradicts the log, or None; None, too, where `go_on` says False, or where the
    log cannot be read: its own verification reports that. Takes about 5 us for each record of the log."""
    for _ in range(_MOST_TRIES):
        changes = keyring.changes()
        try:
            what = _difference(held(), keyring, log, go_on)
        except IntegrityError:
            return None
        if what is None or not go_on():
            return None
        if keyring.changes() == changes:
            return what
    return None  # keys change all the time: the next check finds it


def belongs_to(mark: Mark | None, log: LogRecords) -> bool:
    """Whether everything that an index has of a log, up to its mark, is in it: the record before its position has the
    same hash, which stands for all before it too, and the newest object is at the same place."""
    if mark is None:
        return True
    found = next(log.records(mark.tip.next_seq - 1), None)
    if found is None or leaf_hash(found[1].serialize()) != mark.tip.head:
        return False
    anchor = mark.anchor
    if anchor is None:
        return True
    found = next(log.records(anchor.seq), None)
    if found is None:
        return False
    position, header = found
    return (header.seq, position.segment, position.offset, header.content_id) == (
        anchor.seq,
        anchor.segment,
        anchor.offset,
        anchor.content_id,
    )


def _difference(held: Held, keyring: Keyring, log: LogRecords, go_on: Callable[[], bool]) -> str | None:
    mark = held.mark
    if not belongs_to(mark, log):
        return "it knows records that the log does not have"
    least, most = _in_log(log, 0 if mark is None else mark.tip.next_seq, held.skipped, _Living(keyring), go_on)
    # An index may be a moment ahead of the position that it has reached for certain, never behind it.
    if least <= held.objects <= most:
        return None
    return f"it has {held.objects} objects, where the log has {least}"


def _stored(store: IndexRowStore, keyring: Keyring) -> Held:
    """What a store holds, as of one write."""
    cipher, objects = RowCipher(keyring, bytes), 0
    with store.moment() as moment:
        mark, skipped = marks_in(moment).get(OWN_LOG), skipped_in(moment)
        for ref, sealed in moment.rows("study"):
            try:
                row = cipher.open(ref, sealed)
            except (KeyUnavailableError, ShreddedError):
                continue
            assert isinstance(row, StudyRow)
            objects += row.versions
    return Held(mark, skipped, objects)


def _in_log(log: LogRecords, end: int, skipped: Skipped, living: _Living, go_on: Callable[[], bool]) -> tuple[int, int]:
    """Count the objects before record `end`, and all, without those of the `skipped` records, which the index lacks."""
    objects, least = 0, None
    for position, header in log.records(0):
        if header.seq == end:
            least = objects
        if not go_on():
            break
        if header.kind == Kind.OBJECT and living[header.study_key_id] and position.id not in skipped:
            objects += 1
    return objects if least is None else least, objects


class _Living(dict[bytes, bool]):
    """By key id, whether what it seals counts: it was neither shredded, nor replaced by a rekey."""

    def __init__(self, keyring: Keyring) -> None:
        super().__init__()
        self._keyring = keyring
        self._inactive = rekey.inactive_keys(keyring)

    def __missing__(self, key_id: bytes) -> bool:
        is_gone = key_id in self._inactive or shred.is_shredded(self._keyring, key_id)
        self[key_id] = not is_gone and not shred.is_dropped(self._keyring, key_id)
        return self[key_id]
