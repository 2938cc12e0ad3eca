"""Sealed rows and UID tokens: visible to every thread at once, durable after the next flush.

Rule: only what `index.tables.row_cipher` seals reaches the disk. New rows wait in memory; one background thread writes
them in one transaction together with the log position that they cover. The log is the truth: what is lost here is
applied again from there. It does not know what rows mean (`index.index`).
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, TypeAlias

from coffer.index.backends.row_store import Change, IndexRowStore
from coffer.index.tables.row_cache import RowCache
from coffer.index.tables.row_cipher import INSTANCE, KIND_OF_LENGTH, PART, SERIES, STUDY, Ref, Row, RowCipher
from coffer.index.tables.rows import InstanceRow, SeriesRow, StudyRow
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.errors import CofferError, KeyUnavailableError, ShreddedError, UnavailableError
from coffer.keys.keyring.keyring import Keyring

__all__ = ["INSTANCE", "PART", "SERIES", "STUDY", "Ref", "Tables", "child", "number_of"]

_TABLE: Final = {STUDY: "study", SERIES: "series", INSTANCE: "instance"}
_CHILD: Final = struct.Struct(">I")
_NUMBER: Final = struct.Struct(">Q")
_FLUSH_SECONDS: Final = 0.05
_FLUSH_ROWS: Final = 4096
_PATIENCE_SECONDS: Final = 60.0  # with writes that fail for other reasons than the disk
_MOST_WAITING: Final = 200_000  # rows in memory before writers wait for the disk
_PAGE: Final = 128  # rows of a series or study that are fetched at once
_Below: TypeAlias = tuple[Ref, Callable[[], Row | None]]


def child(ref: Ref, number: int) -> Ref:
    """Return the reference of the `number`th series of a study, or instance of a series."""
    return ref + _CHILD.pack(number)


def number_of(ref: Ref) -> int:
    """Return the study number that a reference begins with."""
    return int(_NUMBER.unpack_from(ref)[0])


def _same(row: Row) -> Row:
    return row


class Tables:
    """Rows by reference, references by UID. Readers need no lock; writers hold `lock` around `put` and `name`."""

    def __init__(
        self, store: IndexRowStore, keyring: Keyring, epoch: int, *, readonly: bool, random: Callable[[int], bytes]
    ) -> None:
        """`epoch` is the lease under which this process writes; see `IndexRowStore.write`."""
        self.store = store
        self._epoch = epoch
        self.lock = threading.RLock()
        self._cipher = RowCipher(keyring, random)
        self._fresh: dict[Ref, Row | None] = {}
        self._flushing: dict[Ref, Row | None] = {}
        self._fresh_names: dict[bytes, tuple[Ref, ...]] = {}
        self._flushing_names: dict[bytes, tuple[Ref, ...]] = {}
        self._fresh_gone: dict[bytes, None] = {}
        self._flushing_gone: dict[bytes, None] = {}
        self._is_readonly = readonly
        self._cache = RowCache(keeps_names=not readonly)
        self._hidden: set[Ref] = set()  # studies whose key was shredded: their rows exist, but are not shown
        self._flush_lock = threading.Lock()
        self._meta: Callable[[], list[Change]] = list
        self._wake = threading.Event()
        self._flushed = threading.Condition()
        self._closing = threading.Event()
        self._failure: UnavailableError | None = None
        self._flusher: threading.Thread | None = None

    def start(self, meta: Callable[[], list[Change]]) -> None:
        """Start the background flusher. `meta` returns the meta rows that belong to the rows put until now."""
        self._meta = meta
        self._flusher = threading.Thread(target=self._run, name="coffer-index-flusher", daemon=True)
        self._flusher.start()

    def hide(self, study: Ref) -> None:
        """Show a study's rows only to `read` from now on, for removing them. The caller holds `lock`."""
        self._hidden.add(study)
        self._cache.drop_below(study)

    def token(self, kind: int, uid: str) -> bytes:
        """Return the key that stands for a UID on disk: kind, then 16 bytes of HMAC-SHA-256."""
        return self._cipher.token(kind, uid)

    def named(self, kind: int, uid: str) -> list[Ref]:
        """Return the references of every entity with this UID or text, oldest first."""
        return self.under(self.token(kind, uid))

    def under(self, token: bytes) -> list[Ref]:
        """Return the references under a token, as `named`; the list must not be changed."""
        kept = self._cache.names(token)
        if kept is None:
            generation = self._cache.generation
            kept = self._under(token)
            self._cache.keep_names(token, kept, generation)
        return kept

    def _under(self, token: bytes) -> list[Ref]:
        waiting = self._fresh_names.get(token, ())
        if token in self._fresh_gone:  # the removal listed what is left under it
            return sorted(waiting)
        waiting += self._flushing_names.get(token, ())
        stored = [] if token in self._flushing_gone else self.store.values(token)
        return sorted({*stored, *waiting}) if waiting else stored

    def wake(self) -> None:
        """Write the meta rows soon even if no row changes: readers wait for them."""
        self._wake.set()

    def name(self, kind: int, uid: str, ref: Ref) -> None:
        """Add an entity to those that a UID, or a part's text, names. The caller holds `lock`."""
        token = self.token(kind, uid)
        self._fresh_names[token] = (*self._fresh_names.get(token, ()), ref)
        self._cache.drop_names(token)

    def put(self, ref: Ref, row: Row) -> None:
        """Make a row visible now and durable with the next flush. The caller holds `lock`."""
        self._fresh[ref] = row
        self._cache.put(ref, row)
        self._wake.set()

    def remove(self, ref: Ref, *names: tuple[int, str]) -> None:
        """Remove a row and the tokens of its names, durable with the next flush. The caller holds `lock`."""
        self._fresh[ref] = None
        for kind, uid in names:
            token = self.token(kind, uid)
            others = tuple(r for r in self.named(kind, uid) if r != ref)
            self._fresh_gone[token] = None
            self._fresh_names[token] = others
            self._cache.drop_names(token)
        self._cache.drop(ref)
        self._wake.set()

    def study(self, ref: Ref) -> StudyRow | None:
        """Return a study's row, or None. Raises KeyUnavailableError or ShreddedError with the study's key."""
        row = self._row(ref)
        return row if isinstance(row, StudyRow) else None

    def series(self, ref: Ref) -> SeriesRow | None:
        """Return a series' row, or None. Raises the errors of `study`."""
        row = self._row(ref)
        return row if isinstance(row, SeriesRow) else None

    def instance(self, ref: Ref) -> InstanceRow | None:
        """Return an instance's row, or None. Raises the errors of `study`."""
        row = self._row(ref)
        return row if isinstance(row, InstanceRow) else None

    def _row(self, ref: Ref) -> Row | None:
        return None if ref[:8] in self._hidden else self.read(ref)

    def read(self, ref: Ref, study: Callable[[bytes], StudyKey] | None = None) -> Row | None:
        """Return a row, even a hidden one, or None; `study` looks up the key if it was shredded. Raises the errors of
        `study`."""
        generation = self._cache.generation
        is_known, row = self._in_memory(ref)
        if is_known:
            return row
        sealed = self.store.get(_TABLE[KIND_OF_LENGTH[len(ref)]], ref)
        return None if sealed is None else self._opened(ref, sealed, study, generation)

    def below(self, parent: Ref, numbered: int, study: Callable[[bytes], StudyKey] | None = None) -> Iterator[_Below]:
        """Yield the rows of the first `numbered` series of a study, or instances of a series, that there are, as a
        function each that opens the row.

        They are fetched page by page, each page as of one moment. Hidden ones are left out unless `study` is given. The
        functions raise the errors of `study`.
        """
        for start in range(0, numbered, _PAGE):
            if study is None and parent[:8] in self._hidden:
                return
            yield from self._page([child(parent, n) for n in range(start, min(start + _PAGE, numbered))], study)

    def _page(self, refs: list[Ref], study: Callable[[bytes], StudyKey] | None) -> list[_Below]:
        generation = self._cache.generation
        found = [(ref, *self._in_memory(ref)) for ref in refs]
        asked = [ref for ref, is_known, _ in found if not is_known]
        stored = dict(zip(asked, self.store.get_many(_TABLE[KIND_OF_LENGTH[len(refs[0])]], asked), strict=True))
        out: list[_Below] = []
        for ref, _, row in found:
            if row is not None:
                out.append((ref, partial(_same, row)))
            elif (sealed := stored.get(ref)) is not None:
                out.append((ref, partial(self._opened_late, ref, sealed, study, generation)))
        return out

    def _opened_late(
        self, ref: Ref, sealed: bytes, study: Callable[[bytes], StudyKey] | None, generation: int
    ) -> Row | None:
        """Open a row that may have been sealed again, under another key, since it was read."""
        try:
            return self._opened(ref, sealed, study, generation)
        except (KeyUnavailableError, ShreddedError):
            return self._row(ref) if study is None else self.read(ref, study)

    def _in_memory(self, ref: Ref) -> tuple[bool, Row | None]:
        """Whether a row is known without the store, and the row; known and None: it was removed."""
        for waiting in (self._fresh, self._flushing):  # in this order: a flush moves rows from the first to the second
            if ref in waiting:
                return True, waiting[ref]
        cached = self._cache.row(ref)
        return cached is not None, cached

    def _opened(self, ref: Ref, sealed: bytes, study: Callable[[bytes], StudyKey] | None, generation: int) -> Row:
        """Open a row that was read from the store when, or after, this generation began."""
        row = self._cipher.open(ref, sealed, study)
        if ref[:8] not in self._hidden:
            self._cache.keep(ref, row, generation)
        return row

    def all_studies(self) -> Iterator[tuple[Ref, StudyRow | None]]:
        """Every stored study in order of its number, with None if its key is gone."""
        after = b""
        while page := self.store.scan("study", after):
            for ref, sealed in page:
                try:
                    row = self._cipher.open(ref, sealed)
                except (KeyUnavailableError, ShreddedError):
                    row = None
                yield ref, row if isinstance(row, StudyRow) else None
            after = page[-1][0]

    def flush(self) -> None:
        """Write everything put until now; durable on return. Raises UnavailableError, and from then on."""
        with self._flush_lock:
            self.require_writable()
            with self.lock:
                # In this order a reader without a lock finds every row in at least one of the two.
                self._flushing, self._fresh = self._fresh, {}
                self._flushing_names, self._fresh_names = self._fresh_names, {}
                self._flushing_gone, self._fresh_gone = self._fresh_gone, {}
                changes = self._meta()
            try:
                self.store.write(self._epoch, changes + self._changes())
            except CofferError as error:
                self._failure = UnavailableError(f"the index stopped: {error}", hint=error.hint())
                raise self._failure from error
            except BaseException:  # for example out of memory: keep the rows for the next flush
                self._restore_unwritten()
                raise
            with self.lock:
                self._flushing = {}
                self._flushing_names = {}
                self._flushing_gone = {}
        with self._flushed:
            self._flushed.notify_all()

    def _restore_unwritten(self) -> None:
        """Put what could not be written back under what was put meanwhile. Writing it twice is harmless."""
        with self.lock:
            names = dict(self._flushing_names)
            for token, refs in self._fresh_names.items():
                # The removal of a name meanwhile has listed what is left under it.
                names[token] = refs if token in self._fresh_gone else (*names.get(token, ()), *refs)
            self._fresh_gone = {**self._flushing_gone, **self._fresh_gone}
            self._fresh_names, self._fresh = names, {**self._flushing, **self._fresh}
            self._flushing, self._flushing_names, self._flushing_gone = {}, {}, {}

    def _changes(self) -> list[Change]:
        rows, gone = self._sealed_rows()
        out: list[Change] = [("uid", token, None) for token in self._flushing_gone]
        named = ((token, ref) for token, refs in self._flushing_names.items() for ref in refs)
        out += [("uid", token, ref) for token, ref in named if ref[:8] not in self._hidden and ref[:8] not in gone]
        return out + rows

    def _sealed_rows(self) -> tuple[list[Change], set[Ref]]:
        """The rows to write, and the studies that were shredded while theirs waited: their names are not written."""
        key_ids: dict[bytes, bytes] = {}
        out: list[Change] = []
        gone: set[Ref] = set()
        for ref, row in self._flushing.items():
            table = _TABLE[KIND_OF_LENGTH[len(ref)]]
            if row is None:
                out.append((table, ref, None))
                continue
            if ref[:8] in self._hidden:
                continue
            try:
                key_id = key_ids.get(ref[:8])
                if key_id is None:
                    study = self.study(ref[:8])
                    if study is None:  # removed meanwhile: a row without its study is useless
                        continue
                    key_id = key_ids[ref[:8]] = study.study_key_id
                out.append((table, ref, self._cipher.seal(ref, row, key_id)))
            except (KeyUnavailableError, ShreddedError):
                gone.add(ref[:8])
        return out, gone

    def require_writable(self) -> None:
        """Raise UnavailableError if the flusher has stopped."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # each raise would add to its traceback

    def wait_for_room(self) -> None:
        """Block while too many rows wait for the disk. Raises UnavailableError if the flusher has stopped."""
        while len(self._fresh) > _MOST_WAITING and self._failure is None:
            with self._flushed:
                self._flushed.wait(0.1)
        self.require_writable()

    def _run(self) -> None:
        failing_since: float | None = None
        while not self._closing.is_set():
            self._wake.wait()
            self._wake.clear()
            if len(self._fresh) < _FLUSH_ROWS:
                self._closing.wait(_FLUSH_SECONDS)  # let a burst gather into one commit
            try:
                self.flush()
                failing_since = None
            except CofferError:
                return  # kept in `_failure`, which every writer gets
            except Exception as error:  # noqa: BLE001  # a shortage passes; writers must get an error that does not
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since > _PATIENCE_SECONDS:
                    what = type(error).__name__
                    self._failure = UnavailableError(f"the index stopped: {what}", hint="restart Coffer")
                    return
                self._closing.wait(_FLUSH_SECONDS)
                self._wake.set()

    def compact(self) -> None:
        """Flush, and rewrite the file without removed rows (`IndexRowStore.compact`); durable on return."""
        self.flush()
        with self._flush_lock:
            self.store.compact()

    def clear_cache(self) -> None:
        """Read every row from disk again, as another process may have written it. Only allowed if no rows wait to be
        written; those that a readonly index keeps in memory are dropped too."""
        if self._is_readonly:
            self._fresh = {}
        self._hidden.clear()  # an index that is filled again gives their numbers to other studies
        self._cache.clear()

    def drop(self, then: Callable[[], None]) -> None:
        """Remove everything, on disk and in memory, and call `then` before anything is written again.

        The caller must not hold `lock`: a flush takes its own lock first, then this one.
        """
        with self._flush_lock, self.lock:
            self.store.clear(self._epoch)
            self._fresh, self._flushing = {}, {}
            self._fresh_names, self._flushing_names = {}, {}
            self._fresh_gone, self._flushing_gone = {}, {}
            self.clear_cache()
            then()

    def close(self, *, flush: bool = True) -> None:
        """Flush (not with `flush=False`, as after a power cut), stop the flusher, close the file. May be repeated."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._wake.set()
        if self._flusher is not None:
            self._flusher.join()
            if flush and self._failure is None:
                self.flush()
        self.store.close()
