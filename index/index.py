"""The index of one archive: put instances in, find studies, series and instances, say where their bytes are.

Rule: the log is the truth and this is a view of it. An instance is found as soon as `accept` returns; it is durable a
moment later, and a crash in between costs only a catch-up from `applied_seq`. Applying a record again changes nothing,
and the order of records does not matter for what is answered. It reads no log (`index.rebuild`) and decides no access.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from index.applied import Anchor, Applied
from index.attributes import SERIES_UID, SOP_INSTANCE, STUDY_UID, Values
from index.catalogue import Catalogue
from index.entry import InstanceEntry
from index.keychange import KeyChange
from index.locate import Located, Locator
from index.merging import study_with, with_version
from index.query import Query
from index.rows import SCHEMA, InstanceRow, Merged, SeriesRow, StudyRow, Version
from index.skipped import Skipped
from index.store import Change
from index.tables import INSTANCE, SERIES, STUDY, Ref, Tables, child
from keys import shred
from keys.errors import FormatError, IntegrityError, KeyUnavailableError, ShreddedError, UnavailableError
from keys.keyring import Keyring

__all__ = ["Index", "IndexStats", "Located"]

_SCHEMA_KEY, _ARCHIVE_KEY, _APPLIED_KEY, _SKIPPED_KEY = b"schema", b"archive", b"applied", b"skipped"
_LOAD_PATIENCE: Final = 1.0  # seconds: a small archive is open when its table is filled
_NOTHING: Final = Merged()


@dataclass(frozen=True, slots=True)
class IndexStats:
    """Totals over all studies. `unreadable_studies` have rows whose key is gone (shredded, or a keyring too old);
    `skipped` objects are stored and in no row, because they could not be read or opened."""

    studies: int
    series: int
    instances: int
    conflicts: int
    unindexed: int
    data_bytes: int
    unreadable_studies: int
    applied_seq: int
    skipped: int


class Index:
    """An open index; make one with `open`. Thread-safe: any number of readers beside any number of writers."""

    def __init__(self, tables: Tables, keyring: Keyring, *, readonly: bool) -> None:
        """Check what the folder holds and load the searchable table; `open` calls this."""
        self._tables = tables
        self._keyring = keyring
        self._readonly = readonly
        self._catalogue = Catalogue(tables)
        self._key_change = KeyChange(tables, self._catalogue, keyring)
        self._locator = Locator(tables, self._catalogue.table)
        self._applied = Applied()
        self._skipped = Skipped()
        self._written_skipped = b""
        self._accepted: deque[tuple[Version, bytes, InstanceEntry, int]] = deque()
        self._accepted_lock = threading.Lock()
        self._next_number = 1
        self._changes = keyring.changes()
        self._shredded = set(shred.tombstones(keyring))
        if self._check_meta():
            self._load()
        else:
            tables.drop(self._load)
        try:
            self._catalogue.wait(_LOAD_PATIENCE)
        except BaseException:
            self._catalogue.close()
            raise
        if not readonly:
            tables.start(self._meta_rows)

    @classmethod
    def open(
        cls, folder: Path, keyring: Keyring, *, readonly: bool = False, random: Callable[[int], bytes] = os.urandom
    ) -> Index:
        """Open the index in `folder`, made when absent. With `readonly` safely beside the process that writes.

        An index of another schema is emptied, to be filled again by `index.rebuild.catch_up`. Of many studies the
        searchable table is still being filled on return: objects can be put in, `query` and `stats` wait. Raises
        NotFoundError (readonly, none there), LockedError, IntegrityError when it is damaged or belongs to another
        archive; damage that is met later is raised by who waits and by `require_writable`.
        """
        tables = Tables(folder, keyring, readonly=readonly, random=random)
        try:
            return cls(tables, keyring, readonly=readonly)
        except BaseException:
            tables.close(flush=False)
            raise

    def _check_meta(self) -> bool:
        """False where there is nothing that this code may use."""
        get = self._tables.store.get
        archive, schema = get("meta", _ARCHIVE_KEY), get("meta", _SCHEMA_KEY)
        if archive is not None and archive != self._keyring.archive_id:
            raise IntegrityError("the index belongs to another archive", hint="remove the index folder and start again")
        if schema == SCHEMA.to_bytes(4, "big"):
            return True
        if self._readonly and schema is not None:
            raise FormatError("the index has an unknown schema", hint="start the archive once, it makes it anew")
        return self._readonly

    def _load(self) -> None:
        """Begin again with what the disk holds. Nobody else uses the index, or the caller holds the tables' locks."""
        applied = self._tables.store.get("meta", _APPLIED_KEY)
        self._applied = Applied.decode(applied) if applied else Applied()
        self._written_skipped = self._tables.store.get("meta", _SKIPPED_KEY) or b""
        self._skipped = Skipped.decode(self._written_skipped)
        self._next_number = self._catalogue.load()

    @property
    def is_loaded(self) -> bool:
        """Whether `query` and `stats` answer without waiting for the searchable table."""
        return self._catalogue.is_loaded

    def _meta_rows(self) -> list[Change]:
        made: list[Change] = [
            ("meta", _SCHEMA_KEY, SCHEMA.to_bytes(4, "big")),
            ("meta", _ARCHIVE_KEY, self._keyring.archive_id),
            ("meta", _APPLIED_KEY, self._applied.encode()),
        ]
        skipped = self._skipped.encode()
        if skipped != self._written_skipped:
            made.append(("meta", _SKIPPED_KEY, skipped or None))
            self._written_skipped = skipped
        return made

    def require_writable(self) -> None:
        """Return where what is put in can be kept. Raises UnavailableError once a write failed, until a restart.

        Raises IntegrityError where a damaged row ended the filling of the searchable table.
        """
        self._tables.require_writable()
        self._catalogue.require_sound()

    # Putting in

    def accept(self, version: Version, study_key_id: bytes, entry: InstanceEntry, *, covers: int = 1) -> None:
        """As `apply`, but the work is left for whoever looks next (`follow`): the peer who waits need not wait for it.

        Raises UnavailableError when the index can no longer write.
        """
        self._tables.wait_for_room()
        self._accepted.append((version, study_key_id, entry, covers))

    def apply(self, version: Version, study_key_id: bytes, entry: InstanceEntry, *, covers: int = 1) -> None:
        """Take one object's record in; it can be found on return, and is durable after the next flush.

        `covers` says how many consecutive records of the log end with this one and are dealt with (a study's first
        object comes with the record of its key). Does nothing for a record that is already in. Raises
        UnavailableError when the index can no longer write; the record is then found again by catch-up.
        """
        self._tables.wait_for_room()
        self._apply(version, study_key_id, entry, covers)

    def _apply(self, version: Version, study_key_id: bytes, entry: InstanceEntry, covers: int) -> None:
        version = msgspec.structs.replace(version, study_key_id=study_key_id)
        with self._tables.lock:
            if study_key_id not in self._shredded:  # else it was shredded between its commit and here
                self._put(version, entry)
            self._applied.cover(version.seq - covers + 1, covers, version)
            self._skipped.discard(version.seq)

    def cover(self, seq: int) -> None:
        """Say that record `seq` holds nothing for the index, so that `applied_seq` can pass it."""
        with self._tables.lock:
            self._applied.cover(seq)
            self._skipped.discard(seq)

    def set_aside(self, seq: int) -> None:
        """Say that the object of record `seq` cannot be read now.

        `applied_seq` passes it, and `skipped` has it, durably after the next flush, until it is applied or covered.
        """
        with self._tables.lock:
            self._applied.cover(seq)
            self._skipped.add(seq)

    def settle(self, next_seq: int) -> None:
        """Say that every record below `next_seq` is in, or holds nothing for the index."""
        with self._tables.lock:
            self._applied.settle(next_seq)

    def _put(self, version: Version, entry: InstanceEntry) -> None:
        study_ref, before = self._study(entry.study_uid)
        fresh_study = study_ref is None
        if study_ref is None:
            study_ref = self._next_number.to_bytes(8, "big")
        study = before or StudyRow(entry.study_uid, version.study_key_id, _NOTHING)
        series_ref, series = self._series(study_ref, entry.series_uid)
        fresh_series = series_ref is None
        if series_ref is None:
            series_ref = child(study_ref, study.series)
        series = series or SeriesRow(entry.series_uid, _NOTHING)
        instance_ref, old = self._instance(series_ref, entry.sop_instance)
        if old is not None and any(v.seq == version.seq for v in old.versions):
            return
        new = with_version(old, version, entry)
        if instance_ref is None:
            instance_ref = child(series_ref, series.instances)
            self._tables.name(entry.sop_instance, instance_ref)
        if fresh_series:
            self._tables.name(entry.series_uid, series_ref)
        if fresh_study:
            self._tables.name(entry.study_uid, study_ref)
            self._next_number += 1
        after = study_with(study, version, entry, fresh_series=fresh_series, old=old, new=new)
        # Bottom up: whoever finds the study row finds everything that it counts.
        self._tables.put(instance_ref, new)
        attributes = series.attributes.merge(version.seq, entry.series)
        self._tables.put(series_ref, SeriesRow(series.series_uid, attributes, series.instances + (old is None)))
        self._tables.put(study_ref, after)
        self._catalogue.note(study_ref, before, after)

    # Looking up

    def _study(self, uid: str) -> tuple[Ref, StudyRow] | tuple[None, None]:
        for ref in self._tables.named(STUDY, uid):
            try:
                row = self._tables.study(ref)
            except (KeyUnavailableError, ShreddedError):
                continue  # shredded, and received again under a new key: the old rows are as good as gone
            if row is not None:
                return ref, row
        return None, None

    def is_stored(self, name: bytes) -> bool:
        """Whether a study that can be opened stands under what `name_of` gave for it."""
        for ref in self._tables.under(bytes((STUDY,)) + name):
            try:
                if self._tables.study(ref) is not None:
                    return True
            except (KeyUnavailableError, ShreddedError):
                continue
        return False

    def _series(self, study: Ref, uid: str) -> tuple[Ref, SeriesRow] | tuple[None, None]:
        for ref in self._tables.named(SERIES, uid):
            if ref[:8] == study and (row := self._tables.series(ref)) is not None:
                return ref, row
        return None, None

    def _instance(self, series: Ref, uid: str) -> tuple[Ref, InstanceRow] | tuple[None, None]:
        for ref in self._tables.named(INSTANCE, uid):
            if ref[:12] == series and (row := self._tables.instance(ref)) is not None:
                return ref, row
        return None, None

    def study_key_for(self, study_uid: str) -> bytes | None:
        """The id of the key a study's objects are sealed under; None for a study that has no readable row."""
        _, row = self._study(study_uid)
        return row.study_key_id if row else None

    def key_ids_of(self, study_uid: str) -> frozenset[bytes]:
        """The ids of every key that a version of a study's instances is sealed under; none for an unknown study."""
        _, row = self._study(study_uid)
        if row is None:
            return frozenset()
        located = self._locator.locate({STUDY_UID: (study_uid,)})
        used = {version.study_key_id or row.study_key_id for each in located for version in each.versions}
        return frozenset({row.study_key_id, *used})

    def known_content(self, study_uid: str, series_uid: str, sop_instance: str) -> Sequence[Version]:
        """Every version stored of one instance of one series of one study, newest last; empty when it is unknown."""
        study, _ = self._study(study_uid)
        series, _ = self._series(study, series_uid) if study else (None, None)
        _, row = self._instance(series, sop_instance) if series else (None, None)
        return row.versions if row else ()

    def query(self, level: str, keys: Mapping[int, Values], model: str) -> Iterator[dict[int, Values]]:
        """Yield what matches `keys` at a level ("PATIENT", "STUDY", "SERIES", "IMAGE") of `model` ("patient", "study").

        Each mapping holds every key asked for, () where nothing is known. Raises `index.query.IdentifierError` at the
        call, before the first row, for keys that break the hierarchy.
        """
        return (row for row in self.query_in_steps(level, keys, model) if row is not None)

    def query_in_steps(self, level: str, keys: Mapping[int, Values], model: str) -> Iterator[dict[int, Values] | None]:
        """As `query`, with None now and then while nothing matches, so that who waits can look up."""
        self.follow()
        self._catalogue.wait()
        return Query(level, keys, model, self._tables, self._catalogue.table).run()

    def locate(self, keys: Mapping[int, Sequence[str]]) -> Iterator[Located]:
        """Yield the instances under exact unique keys, as `index.locate.Locator.locate` says."""
        self.follow()
        if not any(keys.get(tag) for tag in (STUDY_UID, SERIES_UID, SOP_INSTANCE)):
            self._catalogue.wait()
        return self._locator.locate(keys)

    # Keeping

    @property
    def applied_seq(self) -> int:
        """The record up to which nothing is missing; -1 when nothing is in. Counts what `flush` would make durable."""
        return self._applied.next_seq - 1

    @property
    def stored_seq(self) -> int:
        """As `applied_seq`, of what is on disk."""
        applied = self._tables.store.get("meta", _APPLIED_KEY)
        return (Applied.decode(applied) if applied else Applied()).next_seq - 1

    @property
    def anchor(self) -> Anchor | None:
        """The newest object at or below `applied_seq`, to tell whether the log is still the same one."""
        return self._applied.anchor

    @property
    def skipped(self) -> tuple[tuple[int, int], ...]:
        """First and last number of each run of records whose objects could not be read."""
        with self._tables.lock:
            return self._skipped.runs

    @property
    def skipped_objects(self) -> int:
        """How many objects could not be read, and are in no answer."""
        with self._tables.lock:
            return len(self._skipped)

    def stats(self) -> IndexStats:
        """Totals as they are now."""
        self.follow()
        self._catalogue.wait()
        with self._tables.lock:
            numbers = [*self._catalogue.totals(), self.applied_seq, len(self._skipped)]
        return IndexStats(*numbers)

    def name_of(self, study_uid: str) -> bytes:
        """The 16 bytes by which a study's rows are found when its key was shredded."""
        return self._tables.token(STUDY, study_uid)[1:]

    def follow(self) -> None:
        """Take in what was accepted, and see what was shredded, by any process, until now.

        Answers that begin after this returns have the one and not the other. `query`, `locate` and `stats` do it
        themselves; who asks for single studies does it before. About 4 us where nothing is new. It goes on where the
        index can no longer write: what was accepted is found until the end.
        """
        if self._accepted:
            self._take_in()
        changes = self._keyring.changes()
        if changes == self._changes:
            return
        with self._tables.lock:
            for key_id, stone in shred.tombstones(self._keyring).items():
                if key_id not in self._shredded:
                    self._key_change.hide(key_id, stone.name)
                    self._shredded.add(key_id)
            self._changes = changes

    def _take_in(self) -> None:
        with self._accepted_lock:
            while self._accepted:
                version, key_id, entry, covers = self._accepted[0]
                try:
                    self._apply(version, key_id, entry, covers)
                except UnavailableError:
                    raise  # it waits; nobody is told that it is not there
                except Exception:
                    self._accepted.popleft()  # one damaged row must not end everything: catch-up meets it again
                    raise
                # Only now: whoever finds nothing waiting must find this one in.
                self._accepted.popleft()

    def forget(self, key_id: bytes, name: bytes) -> int:
        """Remove the rows and tokens of a shredded study, durable after the next flush; return how many instances.

        Takes the key's id and the study's `name_of`. Call it while the keyring still has the key's row: rows that
        cannot be opened keep their tokens, which then lead nowhere. Others may use the index meanwhile.
        """
        self.follow()
        return self._key_change.remove(key_id, name)

    def rekey(self, name: bytes, old: bytes, new: bytes, moved: Mapping[int, Version]) -> set[int]:
        """Let a study's instances be found in new records; durable, all or nothing, after the next flush.

        Takes the study's `name_of`, the ids of its old and its new key, and for each old record's number where the
        object is now. Returns the numbers of the new records that its instances then have. May be repeated.
        """
        self.follow()
        return self._key_change.rekey(name, old, new, moved)

    def clear(self) -> None:
        """Forget everything, durable on return: the first step of a rebuild."""
        self._tables.drop(self._load)

    def refresh(self) -> None:
        """In a readonly index: take in what the writing process has flushed since `open`."""
        applied = self._tables.store.get("meta", _APPLIED_KEY)
        if self._readonly and applied is not None and applied != self._applied.encode():
            self._tables.forget_cache()
            self._load()

    def compact(self) -> None:
        """Flush, and write the file anew so that no byte of what was forgotten is in it; durable on return.

        Others may use the index meanwhile. Needs free space for what the index has. Raises UnavailableError.
        """
        self._take_in()
        self._tables.compact()

    def flush(self) -> None:
        """Make everything accepted durable before returning. Raises UnavailableError when the disk refuses."""
        self._take_in()
        self._tables.flush()

    def close(self, *, flush: bool = True) -> None:
        """Flush and close. `flush=False` leaves what a power cut would leave."""
        self._catalogue.stop()
        try:
            if flush:
                self._take_in()
        finally:
            self._tables.close(flush=flush)
            self._catalogue.close()
