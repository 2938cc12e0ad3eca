"""The study keys of an open keyring: created, opened from their rows, cached and dropped.

Rule: a key is durable before it is handed out. A cached key is handed out only after the feed was read, so
never after another process has shredded it; dropping a key wipes it (`keys.memory.secret`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Final

from coffer.keys.crypto import derive
from coffer.keys.crypto.hedge import new_key
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.errors import ConfigError, KeyUnavailableError, ShreddedError, SupersededError
from coffer.keys.keyring import rows
from coffer.keys.keyring.epochs import OpenEpochs
from coffer.keys.keyring.overview import epoch_rows, header_in
from coffer.keys.keyring.rows import NO_CLAIM, KeyRow, KeyState, Purpose
from coffer.keys.keyring.tombstone import Reason, Tombstone
from coffer.keys.memory.secret import Secret
from coffer.keys.store.keyring_store import KeyringStore, Row
from coffer.keys.store.writes import SOMETHING_ELSE

__all__ = ["StudyKeys"]

_CACHED: Final = 4096


class StudyKeys:
    """Creates and opens the study keys of one keyring. Thread-safe."""

    def __init__(
        self,
        store: KeyringStore,
        epochs: OpenEpochs,
        *,
        writing: threading.Lock,
        random: Callable[[int], bytes],
        now_ms: Callable[[], int],
        seen: int,
    ) -> None:
        """`writing` is held during a commit; `seen` is the feed's number from before `epochs` were read."""
        self._store = store
        self._epochs = epochs
        self._writing = writing
        self._random = random
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._cache: OrderedDict[bytes, StudyKey] = OrderedDict()
        self._seen = seen

    def make(self, key_ids: list[bytes]) -> list[StudyKey]:
        """Make a key under each of these unused 16-byte ids in one commit; all are durable on return, or none exists.

        Raises ConfigError for an id of another length, or one that was used, UnavailableError.
        """
        made = None
        while made is None:
            made = self._try_to_make(key_ids)
        return made

    def make_claimed(
        self, key_ids: list[bytes], tokens: Sequence[bytes], claims: Sequence[Row]
    ) -> list[StudyKey] | None:
        """As `make`, with these claims in the same commit; None, with nothing made, where one of their rows exists."""
        made = self._try_to_make(key_ids, tokens, claims)
        while made is None and not any(self._store.get_many([place for place, _ in claims])):
            made = self._try_to_make(key_ids, tokens, claims)
        return made

    def _try_to_make(
        self, key_ids: list[bytes], tokens: Sequence[bytes] = (), claims: Sequence[Row] = ()
    ) -> list[StudyKey] | None:
        """Make keys under the epoch known here; None where that is no longer the current one, or a claim exists."""
        self.follow()
        header = self._epochs.header  # read once: another thread may adopt a newer one meanwhile
        kek_id, kek = self._epochs.kek(header.epoch)
        made: list[StudyKey] = []
        encoded: list[tuple[bytes, bytes]] = []
        hedge = derive.derive(kek, derive.HEDGE)
        row = KeyRow(Purpose.STUDY, KeyState.ACTIVE, header.epoch, kek_id, self._now_ms())
        with self._writing:
            for key_id, token in zip_longest(key_ids, tokens, fillvalue=NO_CLAIM):
                if len(key_id) != 16 or self.is_used(key_id):
                    raise ConfigError("a study key id has 16 bytes and is used once")
                dek = new_key(hedge, self._random, key_id, token)
                value = replace(row, claim=token).wrap(kek, header.archive_id, key_id, dek, self._random)
                encoded.append((rows.STUDY_PREFIX + key_id, value))
                made.append(StudyKey(key_id, dek))
            if len({key for key, _ in encoded}) != len(encoded):
                raise ConfigError("a study key id has 16 bytes and is used once")
            expected = [(rows.HEADER_KEY, header.encode()), *((place, None) for place, _ in claims)]
            is_made = self._store.put([*encoded, *claims], expected=expected)
        if not is_made:
            self._epochs.load()  # another process may have rotated: new keys belong under its epoch
            return None
        with self._lock:
            for key in made:
                self._cache_key(key)
        return made

    def is_used(self, key_id: bytes) -> bool:
        """Whether a key with this id exists, or existed before it was shredded."""
        return any(self._store.get_many([rows.STUDY_PREFIX + key_id, rows.TOMBSTONE_PREFIX + key_id]))

    def get(self, key_id: bytes) -> StudyKey:
        """Return a study's key, from the cache if it was used recently.

        Raises KeyUnavailableError when the keyring has no such row, ShreddedError when any process has shredded it,
        SupersededError when a rekey replaced it, IntegrityError when the row was altered or belongs elsewhere.
        """
        seen = self.follow()
        with self._lock:
            cached = self._cache.get(key_id)
            if cached is not None:
                self._cache.move_to_end(key_id)
                return cached
        value = self._store.get(rows.STUDY_PREFIX + key_id)
        name = key_id.hex()[:8]
        if value is None and (tombstone := self._store.get(rows.TOMBSTONE_PREFIX + key_id)) is not None:
            if Tombstone.decode(tombstone).reason is Reason.REKEYED:
                raise SupersededError(f"key {name} was replaced by a rekey", hint="the study has a new key: try again")
            raise ShreddedError(f"key {name} was shredded", hint="its data is permanently erased")
        try:
            row, dek = self.open(key_id, value)
        except KeyUnavailableError:
            again = self._store.get(rows.STUDY_PREFIX + key_id)
            if again == value:
                raise
            row, dek = self.open(key_id, again)  # a rotation moved it to another epoch in between
        if row.state is KeyState.SHRED_SCHEDULED:
            raise ShreddedError(f"key {name} was shredded", hint="its data is permanently erased")
        key = StudyKey(key_id, dek)
        with self._lock:
            if self._seen == seen:  # otherwise it may have been shredded since it was read
                self._cache_key(key)
        return key

    def open(self, key_id: bytes, value: bytes | None) -> tuple[KeyRow, Secret]:
        """Return a study's row and key from the row's bytes. Raises KeyUnavailableError for None, IntegrityError."""
        if value is None:
            raise KeyUnavailableError(
                f"the keyring has no key {key_id.hex()[:8]}",
                hint="the keyring is older than the log: restore a newer one",
            )
        row = KeyRow.decode(value)
        return row, self._epochs.unwrap(row, Purpose.STUDY, key_id)

    def follow(self) -> int:
        """Drop the cached keys that any process has taken away, and the KEKs of ended epochs. Returns the number of
        the feed's newest entry."""
        seen = self._seen
        number, gone = self._store.changes(seen)
        if number != seen:
            others = gone is None or SOMETHING_ELSE in gone
            read = (header_in(self._store), epoch_rows(self._store)) if others else None
            with self._lock:
                if read is not None:
                    self._epochs.adopt(*read)
                for key_id in [*self._cache] if gone is None else gone:
                    self._cache.pop(key_id, None)
                self._seen = number
        return number

    def close(self) -> None:
        """Drop the cached keys and wipe the KEKs."""
        with self._lock:  # as in `follow`: keys and KEKs are dropped together
            self._cache.clear()
            self._epochs.wipe()

    def _cache_key(self, key: StudyKey) -> None:
        self._cache[key.key_id] = key
        while len(self._cache) > _CACHED:
            self._cache.popitem(last=False)
