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
from typing import Final, TypeVar

from coffer.index.backends.lmdb_store import Change
from coffer.index.dicom.attributes import SERIES_UID, SOP_INSTANCE, STUDY_UID, Values
from coffer.index.instance.entry import InstanceEntry
from coffer.index.instance.identity import Rules
from coffer.index.query.listing import Listing
from coffer.index.query.locate import Located, Locator
from coffer.index.query.query import Query
from coffer.index.query.views import Views
from coffer.index.tables.applied import Anchor, Applied
from coffer.index.tables.catalogue import Catalogue
from coffer.index.tables.key_change import KeyChange
from coffer.index.tables.lookup import Lookup
from coffer.index.tables.put import Putting
from coffer.index.tables.rows import SCHEMA, Version
from coffer.index.tables.sealed_rows import STUDY, Tables
from coffer.index.tables.skipped import Skipped
from coffer.keys.errors import FormatError, IntegrityError, UnavailableError
from coffer.keys.keyring import shred
from coffer.keys.keyring.keyring import Keyring

__all__ = ["Index", "IndexStats", "Located"]

_SCHEMA_KEY, _ARCHIVE_KEY, _APPLIED_KEY, _RULES_KEY = b"schema", b"archive", b"applied", b"rules"
_SKIPPED_KEY = b"skipped"
_PLAIN: Final = Rules()
_LOAD_PATIENCE: Final = 1.0  # seconds: a small archive is open when its table is filled
_LOADING_SECONDS: Final = 0.01  # a search that waits for the table gives its turn back as often

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class IndexStats:
    """Totals over all studies, one for each part that is shown.

    `conflicts` are versions that are not served. Of `differing_studies` and `differing_series` the served instances
    contradict each other in a value of their study (its patient included) or series; `without_study` are instances of
    no study, which no query shows; under `shared_studies` Study Instance UIDs stand objects of several patients.
    `unreadable_studies` have rows whose key is gone (shredded, or a keyring too old); `skipped` objects are stored and
    in no row, because they could not be read or opened.
    """

    studies: int
    series: int
    instances: int
    conflicts: int
    unindexed: int
    data_bytes: int
    differing_studies: int
    differing_series: int
    without_study: int
    shared_studies: int
    unreadable_studies: int
    applied_seq: int
    skipped: int


class Index(Listing):
    """An open index; make one with `open`. Thread-safe: any number of readers beside any number of writers."""

    def __init__(self, tables: Tables, keyring: Keyring, rules: Rules, *, readonly: bool) -> None:
        """Check what the folder holds and load the searchable table; `open` calls this."""
        self._tables = tables
        self._keyring = keyring
        self._readonly = readonly
        self.rules = rules
        self._catalogue = Catalogue(tables)
        self._lookup = Lookup(tables)
        self._views = Views(tables, self._catalogue, self._lookup)
        self._putting = Putting(tables, self._catalogue, self._lookup, rules)
        self._key_change = KeyChange(tables, self._catalogue, self._lookup, self._putting, keyring)
        self._locator = Locator(tables, self._lookup, self._views)
        super().__init__(tables, self._catalogue, self._lookup, self._views)
        self._applied = Applied()
        self._skipped = Skipped()
        self._written_skipped = b""
        self._accepted: deque[tuple[Version, bytes, InstanceEntry, int]] = deque()
        self._accepted_lock = threading.Lock()
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
        cls,
        folder: Path,
        keyring: Keyring,
        rules: Rules = _PLAIN,
        *,
        readonly: bool = False,
        random: Callable[[int], bytes] = os.urandom,
    ) -> Index:
        """Open the index in `folder`, made when absent. With `readonly` safely beside the process that writes.

        An index of another schema, or made under other rules of patients and versions, is emptied, to be filled again
        by `index.rebuild.catch_up`; with `readonly` it is a FormatError. Of many studies the searchable table is still
        being filled on return: objects can be put in, `query` and `stats` wait. Raises
        NotFoundError (readonly, none there), LockedError, IntegrityError when it is damaged or belongs to another
        archive; damage that is met later is raised by who waits and by `require_writable`.
        """
        tables = Tables(folder, keyring, readonly=readonly, random=random)
        try:
            return cls(tables, keyring, rules, readonly=readonly)
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
            if get("meta", _RULES_KEY) == self.rules.digest:
                return True
            if self._readonly:
                raise FormatError(
                    "the index was made under other [patients] or [versions] than the configuration has now",
                    hint="start the server again, or run coffer index rebuild: it then follows them",
                )
        elif self._readonly and schema is not None:
            raise FormatError("the index has an unknown schema", hint="start the archive once, it makes it anew")
        return self._readonly

    def _load(self) -> None:
        """Begin again with what the disk holds. Nobody else uses the index, or the caller holds the tables' locks."""
        applied = self._tables.store.get("meta", _APPLIED_KEY)
        self._applied = Applied.decode(applied) if applied else Applied()
        self._written_skipped = self._tables.store.get("meta", _SKIPPED_KEY) or b""
        self._skipped = Skipped.decode(self._written_skipped)
        self._putting.next_number = self._catalogue.load()
        with self._tables.lock:
            for key_id, stone in shred.waiting(self._keyring).items():
                self._key_change.serve_again(key_id, stone.name)

    @property
    def is_loaded(self) -> bool:
        """Whether `query` and `stats` answer without waiting for the searchable table."""
        return self._catalogue.is_loaded

    def _meta_rows(self) -> list[Change]:
        made: list[Change] = [
            ("meta", _SCHEMA_KEY, SCHEMA.to_bytes(4, "big")),
            ("meta", _ARCHIVE_KEY, self._keyring.archive_id),
            ("meta", _RULES_KEY, self.rules.digest),
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
        with self._tables.lock:
            if study_key_id not in self._shredded:  # else it was shredded between its commit and here
                self._putting.put(version, study_key_id, entry)
            self._applied.cover(version.seq - covers + 1, covers, version)
            self._skipped.discard(version.seq)

    def cover(self, seq: int) -> None:
        """Say that record `seq` holds nothing for the index, so that `applied_seq` can pass it."""
        with self._tables.lock:
            self._applied.cover(seq)
            self._skipped.discard(seq)
        self._tables.wake()

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

    # Looking up

    def query(self, level: str, keys: Mapping[int, Values], model: str) -> Iterator[dict[int, Values]]:
        """Yield what matches `keys` at a level ("PATIENT", "STUDY", "SERIES", "IMAGE") of `model` ("patient", "study").

        Each mapping holds every key asked for, () where nothing is known. Raises IdentifierError at the
        call, before the first row, for keys that break the hierarchy.
        """
        return (row for row in self.query_in_steps(level, keys, model) if row is not None)

    def query_in_steps(self, level: str, keys: Mapping[int, Values], model: str) -> Iterator[dict[int, Values] | None]:
        """As `query`, with None now and then while nothing matches, or the searchable table is still being filled, so
        that who waits can look up."""
        self.follow()
        steps = Query(level, keys, model, self._tables, self._catalogue.table, self._views).run()
        return self._once_loaded(steps)

    def _once_loaded(self, steps: Iterator[T]) -> Iterator[T | None]:
        yield from self.loading()
        yield from steps

    def loading(self) -> Iterator[None]:
        """Yield None now and then until the searchable table is filled. Raises what ended the filling."""
        while not self._catalogue.wait(_LOADING_SECONDS):
            yield None

    def locate(self, keys: Mapping[int, Sequence[str]], issuer: str | None = None) -> Iterator[Located]:
        """Yield the instances under exact unique keys, as `index.query.locate.Locator.locate` says."""
        self.follow()
        if not any(keys.get(tag) for tag in (STUDY_UID, SERIES_UID, SOP_INSTANCE)):
            self._catalogue.wait()
        return self._locator.locate(keys, issuer)

    def locate_in_steps(self, keys: Mapping[int, Sequence[str]], issuer: str | None = None) -> Iterator[Located | None]:
        """As `locate`, with None now and then while the searchable table is still being filled."""
        self.follow()
        located = self._locator.locate(keys, issuer)
        if any(keys.get(tag) for tag in (STUDY_UID, SERIES_UID, SOP_INSTANCE)):
            return located
        return self._once_loaded(located)

    def issuers_of(self, patient_id: str, studies: Sequence[str] = ()) -> set[str]:
        """The issuers ("": none) of the patients with this ID who have any of these studies; without, of all."""
        self.follow()
        if not studies:
            self._catalogue.wait()
        return self._locator.issuers_of(patient_id, studies)

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
        for ref in self._catalogue.stale():
            if (row := self._lookup.study(ref)) is not None:
                self._views.sound(ref, row)
        with self._tables.lock:
            numbers = [*self._catalogue.totals(), self.applied_seq, len(self._skipped)]
        return IndexStats(*numbers)

    def name_of(self, study_uid: str) -> bytes:
        """The 16 bytes by which a study's rows, of whatever part, are found when their key was shredded."""
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
        """Remove the rows and tokens of a shredded part, durable after the next flush; return how many instances.

        Takes the key's id and the study's `name_of`. Call it while the keyring still has the key's row: rows that
        cannot be opened keep their tokens, which then lead nowhere. Others may use the index meanwhile.
        """
        self.follow()
        return self._key_change.remove(key_id, name)

    def rekey(self, name: bytes, old: bytes, new: bytes, moved: Mapping[int, Version]) -> set[int]:
        """Let a part's instances be found in new records; durable, all or nothing, after the next flush.

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
