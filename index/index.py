"""The index of one archive: put instances in, find studies, series and instances, say where their bytes are.

Rule: the log is the truth and the index is a view of it. An instance is found as soon as `accept` returns; it is
durable a moment later, and a crash in between costs only a catch-up from `applied_seq`. Applying a record again changes
nothing, and the order of records does not matter for the answers. The index reads no log (`index.rebuild`) and decides
no access.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from coffer.archive.format.entry import OWN_LOG, LogId, RecordId, Tip
from coffer.index.backends.lmdb_store import LmdbRowStore
from coffer.index.backends.lmdb_sums import altered
from coffer.index.backends.row_store import IndexRowStore
from coffer.index.instance.entry import InstanceEntry
from coffer.index.instance.identity import Rules
from coffer.index.keyed_check import Held, LogRecords, contradiction
from coffer.index.query.locate import Located
from coffer.index.query.search import IndexSearch, IndexStats
from coffer.index.query.views import Views
from coffer.index.tables.applied import Mark
from coffer.index.tables.catalogue import Catalogue
from coffer.index.tables.key_change import KeyChange
from coffer.index.tables.lookup import Lookup
from coffer.index.tables.progress import Progress
from coffer.index.tables.put import Inserter
from coffer.index.tables.rows import Version
from coffer.index.tables.sealed_rows import STUDY, Tables
from coffer.index.tables.skipped import Run
from coffer.keys.crypto.derive import INDEX_SUM
from coffer.keys.errors import UnavailableError
from coffer.keys.keyring import shred
from coffer.keys.keyring.keyring import Keyring

__all__ = ["Index", "IndexStats", "Located"]

_PLAIN: Final = Rules()
_LOAD_PATIENCE: Final = 1.0  # seconds: the table of a small archive is filled when `open` returns


class Index(IndexSearch):
    """An open index; make one with `open`. Thread-safe: any number of readers beside any number of writers."""

    def __init__(self, tables: Tables, keyring: Keyring, rules: Rules, *, readonly: bool) -> None:
        """Check what the folder holds and load the searchable table; `open` calls this."""
        self._keyring = keyring
        self._readonly = readonly
        self.rules = rules
        catalogue, lookup = Catalogue(tables), Lookup(tables)
        progress = Progress(tables, keyring.archive_id, rules.digest)
        super().__init__(tables, catalogue, lookup, Views(tables, catalogue, lookup), progress)
        self._inserter = Inserter(tables, catalogue, lookup, rules)
        self._key_change = KeyChange(tables, catalogue, lookup, self._inserter, keyring)
        self._accepted: deque[tuple[Version, bytes, InstanceEntry, int, Tip | None]] = deque()
        self._accepted_lock = threading.Lock()
        self._changes = keyring.changes()
        self._shredded = set(shred.tombstones(keyring))
        if progress.is_usable(readonly=readonly):
            self._load()
        else:
            tables.drop(self._load)
        try:
            catalogue.wait(_LOAD_PATIENCE)
        except BaseException:
            catalogue.close()
            raise
        if not readonly:
            tables.start(progress.rows)

    @classmethod
    def open(
        cls,
        folder: Path,
        keyring: Keyring,
        rules: Rules = _PLAIN,
        *,
        readonly: bool = False,
        random: Callable[[int], bytes] = os.urandom,
    ) -> Index:
        """Open the index in `folder`, created if absent, as `over`. With `readonly` it is safe beside the process that
        writes. Raises UnavailableError (readonly and absent) and LockedError, too."""
        return cls.over(LmdbRowStore(folder, readonly=readonly), keyring, rules, readonly=readonly, random=random)

    @classmethod
    def over(
        cls,
        store: IndexRowStore,
        keyring: Keyring,
        rules: Rules = _PLAIN,
        *,
        epoch: int = 0,
        readonly: bool = False,
        random: Callable[[int], bytes] = os.urandom,
    ) -> Index:
        """Open the index that a store holds, and close the store with it. `epoch` is the lease under which it writes.

        An index of another schema, or made under other rules of patients and versions, is emptied, and then filled
        again by `index.rebuild.catch_up`; with `readonly` it is a FormatError. With many studies the searchable table
        is still being filled on return: objects can be put in, `query` and `stats` wait. Raises FencedError if another
        writer has taken over, and IntegrityError if it is damaged or belongs to another archive; IndexAlteredError if
        it was altered, as every later call does that meets what was altered. What the check of all rows finds is raised
        by `require_writable` and by every question from then on.
        """
        tables = Tables(store, keyring, epoch, readonly=readonly, random=random)
        try:
            store.authenticate(keyring.archive_key(INDEX_SUM), random)
            return cls(tables, keyring, rules, readonly=readonly)
        except BaseException:
            tables.close(flush=False)
            raise

    def _load(self) -> None:
        """Start from what is on disk. Nobody else uses the index, or the caller holds the tables' locks."""
        self._progress.load()
        self._inserter.next_number = self._catalogue.load()
        with self._tables.lock:
            for key_id, tombstone in shred.waiting(self._keyring).items():
                self._key_change.serve_again(key_id, tombstone.name)

    def require_writable(self) -> None:
        """Raise unless objects that are put in can be kept: UnavailableError once a write failed, until a restart;
        IntegrityError if a damaged row ended the filling of the searchable table."""
        self._tables.require_writable()
        self._catalogue.require_sound()

    def complaint(self, log: LogRecords, go_on: Callable[[], bool] = lambda: True) -> str | None:
        """Read everything and return what is wrong with it, or None; None, too, where `go_on` says False.

        Compares the rows with their keyed sums, and what they add up to with the log (`index.keyed_check`); waits for
        the searchable table. After a complaint the index
        answers nothing, and nothing can be put in. Raises UnavailableError.
        """
        what = self._tables.store.complaint(go_on) or contradiction(self._held, self._keyring, log, go_on)
        if what is not None:
            self._catalogue.distrust(altered(what))
        return what

    def _held(self) -> Held:
        self.follow()
        with self._tables.lock:
            return Held(self.marks.get(OWN_LOG), self._progress.skipped_records(), self._catalogue.held())

    def accept(
        self, version: Version, study_key_id: bytes, entry: InstanceEntry, *, covers: int = 1, tip: Tip | None = None
    ) -> None:
        """As `apply`, but the work is left to the next reader (`follow`), so that the storing peer need not wait.

        Raises UnavailableError if the index can no longer write.
        """
        self._tables.wait_for_room()
        self._accepted.append((version, study_key_id, entry, covers, tip))

    def apply(
        self, version: Version, study_key_id: bytes, entry: InstanceEntry, *, covers: int = 1, tip: Tip | None = None
    ) -> None:
        """Apply one object's record; it can be found on return, and is durable after the next flush.

        `covers` says how many consecutive records of the log, this one being the last, are dealt with (a study's first
        object comes with the record of its key). `tip` is an end of the log at or above this record: the log's position
        reaches the disk only at a tip that is known. Does nothing for a record that was applied before. Raises
        UnavailableError if the index can no longer write; a catch-up then finds the record again.
        """
        self._tables.wait_for_room()
        self._apply(version, study_key_id, entry, covers, tip)

    def _apply(self, version: Version, study_key_id: bytes, entry: InstanceEntry, covers: int, tip: Tip | None) -> None:
        with self._tables.lock:
            if study_key_id not in self._shredded:  # else it was shredded between its commit and here
                self._inserter.put(version, study_key_id, entry)
            self._progress.applied(version, covers, tip)

    def cover(self, record: RecordId, tip: Tip | None = None) -> None:
        """Record that a record holds nothing for the index, so that its log's position can pass it; `tip` as for
        `apply`."""
        self._progress.cover(record, tip)

    def mark_skipped(self, record: RecordId) -> None:
        """Record that the object of a record cannot be read now; durable after the next flush.

        Its log's position passes it, and `skipped` lists it until it is applied or covered.
        """
        self._progress.mark_skipped(record)

    def advance(self, tip: Tip) -> None:
        """Record that every record below a log's tip is applied, or holds nothing for the index."""
        self._progress.advance(tip)

    @property
    def applied_seq(self) -> int:
        """The record of the archive's own log up to which nothing is missing, on disk or not; -1: none."""
        return self._progress.applied_seq

    @property
    def stored_seq(self) -> int:
        """The record of the archive's own log up to which nothing is missing on disk; -1: none."""
        return self._progress.stored_seq

    @property
    def marks(self) -> Mapping[LogId, Mark]:
        """For each log its newest tip below which everything is applied, which shows whether it is still the same."""
        return self._progress.marks

    @property
    def skipped(self) -> tuple[Run, ...]:
        """The records whose objects could not be read, as runs."""
        return self._progress.skipped

    @property
    def skipped_objects(self) -> int:
        """How many objects could not be read, and are in no answer."""
        return self._progress.skipped_objects

    def study_token(self, study_uid: str) -> bytes:
        """The 16 bytes by which the rows of all parts of a study are found, even after its keys were shredded."""
        return self._tables.token(STUDY, study_uid)[1:]

    def follow(self) -> None:
        """Apply what was accepted, and hide what was shredded, by any process, until now.

        Answers that begin after this returns have the one and not the other. `query`, `locate` and `stats` call it;
        callers that look up single studies must call it before. It takes about 4 us if nothing is new. It works even
        if the index can no longer write: what was accepted is found until the end.
        """
        if self._accepted:
            self._apply_accepted()
        number, gone = self._keyring.gone_since(self._changes)
        if number == self._changes:
            return
        with self._tables.lock:
            of = shred.tombstones(self._keyring) if gone is None else shred.tombstones_of(self._keyring, gone)
            for key_id, tombstone in of.items():
                if key_id not in self._shredded:
                    self._key_change.hide(key_id, tombstone.name)
                    self._shredded.add(key_id)
            self._changes = number

    def _apply_accepted(self) -> None:
        with self._accepted_lock:
            while self._accepted:
                try:
                    self._apply(*self._accepted[0])
                except UnavailableError:
                    raise  # it stays in the queue; no answer may say that it is absent
                except Exception:
                    self._accepted.popleft()  # one damaged row must not stop everything: catch-up meets it again
                    raise
                # Only now: a reader that finds the queue empty must find this object in the tables.
                self._accepted.popleft()

    def forget(self, key_id: bytes, name: bytes) -> int:
        """Remove the rows and tokens of a shredded part, durable after the next flush; return how many instances.

        Takes the id of the key and the `study_token`. Call it while the keyring still has the key's row: rows that
        cannot be opened keep their tokens, which then lead nowhere. Others may use the index meanwhile.
        """
        self.follow()
        return self._key_change.remove(key_id, name)

    def rekey(self, name: bytes, old: bytes, new: bytes, moved: Mapping[RecordId, Version]) -> set[RecordId]:
        """Point a part's instances to new records; durable, all or nothing, after the next flush.

        Takes the `study_token`, the ids of the old and the new key, and for each old record where the object is now.
        Returns the records that the instances have then. May be repeated.
        """
        self.follow()
        return self._key_change.rekey(name, old, new, moved)

    def copy(self, to: Path) -> None:
        """Write what is on disk to a new file, durable on return, before it is removed. Raises UnavailableError."""
        self._tables.store.copy(to)

    def clear(self) -> None:
        """Remove everything, durable on return: the first step of a rebuild."""
        self._tables.drop(self._load)

    def refresh(self) -> None:
        """In a readonly index: load what the writing process has flushed since `open`."""
        if self._readonly and self._progress.has_advanced_on_disk:
            self._tables.clear_cache()
            self._load()

    def compact(self) -> None:
        """Flush, and rewrite the file so that no byte of removed rows is in it; durable on return.

        Others may use the index meanwhile. Needs free space for the content of the index. Raises UnavailableError.
        """
        self._apply_accepted()
        self._tables.compact()

    def flush(self) -> None:
        """Make everything that was accepted durable before returning. Raises UnavailableError if the disk fails."""
        self._apply_accepted()
        self._tables.flush()

    def close(self, *, flush: bool = True) -> None:
        """Flush and close. `flush=False` leaves what a power cut would leave."""
        self._catalogue.stop()
        try:
            if flush:
                self._apply_accepted()
        finally:
            self._tables.close(flush=flush)
            self._catalogue.close()
