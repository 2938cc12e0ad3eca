"""Sealed rows and UID tokens: visible to every thread at once, durable after the next flush.

Rule: a UID reaches the disk only as HMAC-SHA-256(k_token, kind || uid), a row only sealed under its study's row key and
bound to its place; so destroying a study's key destroys its rows. Fresh rows wait in memory and are written by one
background thread in one transaction together with the log position they cover. The log is the truth: whatever is lost
here is applied again from there. It does not know what rows mean (`index.index`).
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeAlias

from coffer.index.backends.lmdb_store import Change, IndexStore
from coffer.index.tables.rows import InstanceRow, SeriesRow, StudyRow, decode_row, encode_row
from coffer.keys.crypto import aead
from coffer.keys.crypto.derive import INDEX_TOKEN, hmac_sha256
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.errors import CofferError, FormatError, KeyUnavailableError, ShreddedError, UnavailableError
from coffer.keys.keyring.keyring import Keyring

__all__ = ["INSTANCE", "PART", "SERIES", "STUDY", "Ref", "Tables", "child", "number_of"]

# A row's key: study number (8), series number in the study (4), instance number in the series (4), big endian.
Ref: TypeAlias = bytes
STUDY, SERIES, INSTANCE, PART = 1, 2, 3, 4  # kinds of names; the first three by their reference's length of rows too
_KINDS: Final = {8: STUDY, 12: SERIES, 16: INSTANCE}
_TABLE: Final = {STUDY: "study", SERIES: "series", INSTANCE: "instance"}
_TOKEN_BYTES: Final = 16
_PAD: Final = 256  # bytes; a row's length then tells little about the names in it
_CONTEXT: Final = b"coffer/index-row/v1\0"
_LENGTH: Final = struct.Struct(">I")
_CHILD: Final = struct.Struct(">I")
_NUMBER: Final = struct.Struct(">Q")
_CACHED: Final = 8192  # study and series rows kept open
_FLUSH_SECONDS: Final = 0.05
_FLUSH_ROWS: Final = 4096
_PATIENCE_SECONDS: Final = 60.0  # with writes that fail for another reason than the disk
_MOST_WAITING: Final = 200_000  # rows in memory before writers wait for the disk

Row: TypeAlias = StudyRow | SeriesRow | InstanceRow


def child(ref: Ref, number: int) -> Ref:
    """Return the reference of the `number`th series of a study, or instance of a series."""
    return ref + _CHILD.pack(number)


def number_of(ref: Ref) -> int:
    """Return the study number that a reference begins with."""
    return int(_NUMBER.unpack_from(ref)[0])


class Tables:
    """Rows by reference, references by UID. Readers need no lock; writers hold `lock` around `put` and `name`."""

    def __init__(
        self, folder: Path, keyring: Keyring, *, readonly: bool, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        self.store = IndexStore(folder, readonly=readonly)
        self.lock = threading.RLock()
        self._keyring = keyring
        self._random = random
        self._token_key = keyring.archive_key(INDEX_TOKEN)
        self._context = _CONTEXT + keyring.archive_id
        self._fresh: dict[Ref, Row | None] = {}
        self._flushing: dict[Ref, Row | None] = {}
        self._fresh_names: dict[bytes, tuple[Ref, ...]] = {}
        self._flushing_names: dict[bytes, tuple[Ref, ...]] = {}
        self._fresh_gone: dict[bytes, None] = {}
        self._flushing_gone: dict[bytes, None] = {}
        self._cache: OrderedDict[Ref, Row] = OrderedDict()
        self._names: dict[bytes, list[Ref]] = {}  # of studies and series; only whoever writes them knows that they hold
        self._keeps_names = not readonly
        self._made_token = lru_cache(_CACHED)(self._make_token)
        self._cache_lock = threading.Lock()
        self._dead: set[Ref] = set()  # studies whose key was shredded: their rows are there, and for nobody
        self._puts = 0
        self._flush_lock = threading.Lock()
        self._meta: Callable[[], list[Change]] = list
        self._wake = threading.Event()
        self._flushed = threading.Condition()
        self._closing = threading.Event()
        self._failure: UnavailableError | None = None
        self._flusher: threading.Thread | None = None

    def start(self, meta: Callable[[], list[Change]]) -> None:
        """Start the background flusher. `meta` gives the meta rows that go with the rows put until now."""
        self._meta = meta
        self._flusher = threading.Thread(target=self._run, name="coffer-index-flusher", daemon=True)
        self._flusher.start()

    def kill(self, study: Ref) -> None:
        """Let nobody see a study's rows from now on but `read`, which serves clearing up. The caller holds `lock`."""
        self._dead.add(study)
        with self._cache_lock:
            self._puts += 1
            for ref in [ref for ref in self._cache if ref[:8] == study]:
                del self._cache[ref]

    def token(self, kind: int, uid: str) -> bytes:
        """Return the key that stands for a UID on disk: kind, then 16 bytes of HMAC-SHA-256."""
        return self._made_token(kind, uid)

    def _make_token(self, kind: int, uid: str) -> bytes:
        prefix = bytes((kind,))
        return prefix + hmac_sha256(self._token_key, prefix + uid.encode("utf-8", "surrogatepass"))[:_TOKEN_BYTES]

    def named(self, kind: int, uid: str) -> list[Ref]:
        """Return the references of every entity with this UID or text, oldest first."""
        return self.under(self.token(kind, uid))

    def under(self, token: bytes) -> list[Ref]:
        """Return the references under a token, as `named`; not to be changed."""
        if not self._keeps_names or token[0] == INSTANCE:
            return self._under(token)
        with self._cache_lock:
            kept, puts = self._names.get(token), self._puts
        if kept is None:
            kept = self._under(token)
            with self._cache_lock:
                if puts == self._puts:  # else another one may have got this name meanwhile
                    if len(self._names) >= _CACHED:
                        self._names.clear()
                    self._names[token] = kept
        return kept

    def _under(self, token: bytes) -> list[Ref]:
        waiting = self._fresh_names.get(token, ())
        if token in self._fresh_gone:  # what is left of it was written down with the removal
            return sorted(waiting)
        waiting += self._flushing_names.get(token, ())
        stored = [] if token in self._flushing_gone else self.store.values(token)
        return sorted({*stored, *waiting}) if waiting else stored

    def wake(self) -> None:
        """Let what the meta rows tell be written soon, also where no row changes: readers wait for it."""
        self._wake.set()

    def name(self, kind: int, uid: str, ref: Ref) -> None:
        """Let a UID, or a part's text, stand for one more entity. The caller holds `lock`."""
        token = self.token(kind, uid)
        self._fresh_names[token] = (*self._fresh_names.get(token, ()), ref)
        self._rename(token)

    def put(self, ref: Ref, row: Row) -> None:
        """Make a row visible now and durable with the next flush. The caller holds `lock`."""
        self._fresh[ref] = row
        if len(ref) != 16:
            with self._cache_lock:
                self._puts += 1
                self._remember(ref, row)
        self._wake.set()

    def remove(self, ref: Ref, *names: tuple[int, str]) -> None:
        """Take a row and its names' tokens away, durable with the next flush. The caller holds `lock`."""
        self._fresh[ref] = None
        for kind, uid in names:
            token = self.token(kind, uid)
            others = tuple(r for r in self.named(kind, uid) if r != ref)
            self._fresh_gone[token] = None
            self._fresh_names[token] = others
            self._rename(token)
        with self._cache_lock:
            self._cache.pop(ref, None)
        self._wake.set()

    def _rename(self, token: bytes) -> None:
        """What stands under a token is another from now on."""
        with self._cache_lock:
            self._puts += 1
            self._names.pop(token, None)

    def study(self, ref: Ref) -> StudyRow | None:
        """Return a study's row, or None. Raises KeyUnavailableError or ShreddedError with the study's key."""
        row = self._row(ref)
        return row if isinstance(row, StudyRow) else None

    def series(self, ref: Ref) -> SeriesRow | None:
        """Return a series' row, or None. Raises as `study`."""
        row = self._row(ref)
        return row if isinstance(row, SeriesRow) else None

    def instance(self, ref: Ref) -> InstanceRow | None:
        """Return an instance's row, or None. Raises as `study`."""
        row = self._row(ref)
        return row if isinstance(row, InstanceRow) else None

    def _row(self, ref: Ref) -> Row | None:
        return None if ref[:8] in self._dead else self.read(ref)

    def read(self, ref: Ref, study: Callable[[bytes], StudyKey] | None = None) -> Row | None:
        """Return a row, or None; `study` gives the key, where it is one that was shredded. Raises as `study`."""
        for waiting in (self._fresh, self._flushing):  # this order: a flush moves rows from the first to the second
            if ref in waiting:
                return waiting[ref]
        with self._cache_lock:
            cached = self._cache.get(ref)
            if cached is not None:
                self._cache.move_to_end(ref)
                return cached
            puts = self._puts
        sealed = self.store.get(_TABLE[_KINDS[len(ref)]], ref)
        if sealed is None:
            return None
        row = self.open_row(ref, sealed, study)
        if len(ref) != 16 and ref[:8] not in self._dead:
            with self._cache_lock:
                if puts == self._puts:  # else a newer row may have been put while this one was read
                    self._remember(ref, row)
        return row

    def _remember(self, ref: Ref, row: Row) -> None:
        self._cache[ref] = row
        self._cache.move_to_end(ref)
        while len(self._cache) > _CACHED:
            self._cache.popitem(last=False)

    def all_studies(self) -> Iterator[tuple[Ref, StudyRow | None]]:
        """Every stored study in order of its number; None for one whose key is gone."""
        after = b""
        while page := self.store.scan("study", after):
            for ref, sealed in page:
                try:
                    row = self.open_row(ref, sealed)
                except (KeyUnavailableError, ShreddedError):
                    row = None
                yield ref, row if isinstance(row, StudyRow) else None
            after = page[-1][0]

    def open_row(self, ref: Ref, stored: bytes, study: Callable[[bytes], StudyKey] | None = None) -> Row:
        """Unseal one stored value. Raises IntegrityError or FormatError when it is not the row of this place."""
        key = (study or self._keyring.study)(stored[:16])
        plain = aead.open_sealed(key.row, self._context + ref, stored[16:])
        if len(plain) < _LENGTH.size:
            raise FormatError("an index row is cut", hint="run `coffer index rebuild`")
        (length,) = _LENGTH.unpack_from(plain)
        data = plain[_LENGTH.size : _LENGTH.size + length]
        kind = _KINDS[len(ref)]
        if kind == STUDY:
            return decode_row(StudyRow, data)
        return decode_row(SeriesRow, data) if kind == SERIES else decode_row(InstanceRow, data)

    def seal_row(self, ref: Ref, row: Row, key_id: bytes) -> bytes:
        """Return the stored value of a row: study key id (16), the padded row sealed under the study's row key."""
        data = encode_row(row)
        plain = _LENGTH.pack(len(data)) + data
        plain += bytes(-len(plain) % _PAD)
        return key_id + aead.seal(self._keyring.study(key_id).row, self._context + ref, plain, self._random(aead.SALT))

    def flush(self) -> None:
        """Write everything put until now; durable on return. Raises UnavailableError, and then for ever."""
        with self._flush_lock:
            self.require_writable()
            with self.lock:
                # The order lets a reader without a lock find every row in at least one of the two.
                self._flushing, self._fresh = self._fresh, {}
                self._flushing_names, self._fresh_names = self._fresh_names, {}
                self._flushing_gone, self._fresh_gone = self._fresh_gone, {}
                changes = self._meta()
            try:
                self.store.write(changes + self._changes())
            except CofferError as error:
                self._failure = UnavailableError(f"the index stopped: {error}", hint=error.hint())
                raise self._failure from error
            except BaseException:  # out of memory, say: what was to be written waits for the next time
                self._take_back()
                raise
            with self.lock:
                self._flushing = {}
                self._flushing_names = {}
                self._flushing_gone = {}
        with self._flushed:
            self._flushed.notify_all()

    def _take_back(self) -> None:
        """Let what was about to be written wait again, under what was put meanwhile. Writing it twice does no harm."""
        with self.lock:
            names = dict(self._flushing_names)
            for token, refs in self._fresh_names.items():
                # A name that was taken away meanwhile was written down with what is left of it.
                names[token] = refs if token in self._fresh_gone else (*names.get(token, ()), *refs)
            self._fresh_gone = {**self._flushing_gone, **self._fresh_gone}
            self._fresh_names, self._fresh = names, {**self._flushing, **self._fresh}
            self._flushing, self._flushing_names, self._flushing_gone = {}, {}, {}

    def _changes(self) -> list[Change]:
        rows, gone = self._sealed_rows()
        out: list[Change] = [("uid", token, None) for token in self._flushing_gone]
        named = ((token, ref) for token, refs in self._flushing_names.items() for ref in refs)
        out += [("uid", token, ref) for token, ref in named if ref[:8] not in self._dead and ref[:8] not in gone]
        return out + rows

    def _sealed_rows(self) -> tuple[list[Change], set[Ref]]:
        """The rows to write, and the studies that were shredded while theirs waited: nothing leads to them either."""
        key_ids: dict[bytes, bytes] = {}
        out: list[Change] = []
        gone: set[Ref] = set()
        for ref, row in self._flushing.items():
            table = _TABLE[_KINDS[len(ref)]]
            if row is None:
                out.append((table, ref, None))
                continue
            if ref[:8] in self._dead:
                continue
            try:
                key_id = key_ids.get(ref[:8])
                if key_id is None:
                    study = self.study(ref[:8])
                    if study is None:  # forgotten meanwhile: a row without its study is nothing
                        continue
                    key_id = key_ids[ref[:8]] = study.study_key_id
                out.append((table, ref, self.seal_row(ref, row, key_id)))
            except (KeyUnavailableError, ShreddedError):
                gone.add(ref[:8])
        return out, gone

    def require_writable(self) -> None:
        """Raise UnavailableError when the flusher stopped."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # it would grow with each who meets it

    def wait_for_room(self) -> None:
        """Block while too many rows wait for the disk. Raises UnavailableError when the flusher stopped."""
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
                return  # kept in `_failure`, which every writer meets
            except Exception as error:  # noqa: BLE001  # a shortage passes; whoever stores must hear of what does not
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since > _PATIENCE_SECONDS:
                    what = type(error).__name__
                    self._failure = UnavailableError(f"the index stopped: {what}", hint="restart Coffer")
                    return
                self._closing.wait(_FLUSH_SECONDS)
                self._wake.set()

    def compact(self) -> None:
        """Write the file anew, without what was removed from it, as `IndexStore.compact` says; durable on return."""
        self.flush()
        with self._flush_lock:
            self.store.compact()

    def forget_cache(self) -> None:
        """Read every row from the disk again, as another process may have written it. Only where nothing waits to be
        written: what a reader keeps for itself is forgotten too."""
        if not self._keeps_names:
            self._fresh = {}
        with self._cache_lock:
            self._puts += 1
            self._dead.clear()  # an index that is filled anew gives their numbers to others
            self._cache.clear()
            self._names.clear()

    def drop(self, then: Callable[[], None]) -> None:
        """Forget everything, on disk and in memory, and call `then` before anyone writes again.

        The caller must not hold `lock`: a flush takes its own lock first, then this one.
        """
        with self._flush_lock, self.lock:
            self.store.clear()
            self._fresh, self._flushing = {}, {}
            self._fresh_names, self._flushing_names = {}, {}
            self._fresh_gone, self._flushing_gone = {}, {}
            self.forget_cache()
            then()

    def close(self, *, flush: bool = True) -> None:
        """Flush (unless told not to, as after a power cut), stop the flusher, close the file. May be repeated."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._wake.set()
        if self._flusher is not None:
            self._flusher.join()
            if flush and self._failure is None:
                self.flush()
        self.store.close()
