"""The keyring: every study's data encryption key (DEK), wrapped under the current epoch's KEK, outside the log.

Rule: a key is durable before it is handed out, and a row names the one KEK that opens it: several keys are never tried.
The keyring is as precious as all data; the log names every key that was made, shredded or replaced, so a lost, cut or
rolled-back keyring is found at open by the floors above. It does not know studies: a key id is random, not derived from
a UID.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from keys import aead, derive, rows, selftest
from keys.destruction import Destruction, abandon, destroy
from keys.errors import (
    ConfigError,
    FormatError,
    IntegrityError,
    KeyUnavailableError,
    NotFoundError,
    ShreddedError,
    SupersededError,
)
from keys.lock import ChangeLock, Holder
from keys.overview import EpochInfo, epochs_in, groups_in, half_left
from keys.provider import DestroyReceipt, KekProvider
from keys.providers import Returned, returned
from keys.rotation import Rotated, rotate
from keys.rows import EpochRow, EpochState, Header, KeyRow, KeyState, Purpose
from keys.secret import Secret
from keys.shares import Group, Share, split
from keys.shred import Reason, Tombstone
from keys.store import RowStore

__all__ = ["EpochInfo", "Keyring", "StudyKey"]

KCV_BYTES: Final = 16
_CACHED: Final = 4096


def clock_ms() -> int:
    """Return milliseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, eq=False)
class StudyKey:
    """One study's key, and what is derived from it when it is first asked for, about 4 us each."""

    key_id: bytes
    dek: Secret

    @cached_property
    def blob(self) -> Secret:
        """What objects are sealed under (HKDF label blob)."""
        return derive.derive(self.dek, derive.BLOB)

    @cached_property
    def cid(self) -> Secret:
        """What content ids are made with (HKDF label cid)."""
        return derive.derive(self.dek, derive.CID)

    @cached_property
    def row(self) -> Secret:
        """What index rows are sealed under (HKDF label row)."""
        return derive.derive(self.dek, derive.ROW)

    @cached_property
    def kcv(self) -> bytes:
        """16 bytes by which the key is told from any other."""
        return derive.hmac_sha256(self.dek, derive.KCV)[:KCV_BYTES]


class Keyring:
    """An open keyring. Thread-safe. Make one with `create` or `open`; several processes may write in turn."""

    def __init__(
        self,
        store: RowStore,
        provider: KekProvider,
        random: Callable[[int], bytes],
        now_ms: Callable[[], int],
    ) -> None:
        """Read header and epochs and unwrap every epoch that is not destroyed; `create` and `open` call this."""
        selftest.require()
        self._store = store
        self._provider = provider
        self._random = random
        self._now_ms = now_ms
        self._changing = ChangeLock(store.folder)
        self._writing = threading.Lock()  # held over a commit, so that cached keys stay at hand meanwhile
        self._lock = threading.Lock()
        self._cache: OrderedDict[bytes, StudyKey] = OrderedDict()
        self._seen = self.changes()
        self._keks: dict[int, tuple[bytes, Secret]] = {}
        self._load_epochs()
        self._root = self.own_key(rows.ARCHIVE_ROOT_KEY)

    @classmethod
    def create(
        cls,
        folder: Path,
        provider: KekProvider,
        archive_id: bytes,
        random: Callable[[int], bytes] = os.urandom,
        now_ms: Callable[[], int] = clock_ms,
    ) -> Keyring:
        """Make a keyring with epoch 1, an archive root key and a signing key, durable on return, and open it.

        Takes the archive's 16-byte id. Raises ConfigError when `folder` already holds a keyring.
        """
        if len(archive_id) != 16:
            raise ConfigError("an archive id has 16 bytes")
        selftest.require()
        store = RowStore(folder, create=True)
        try:
            if store.get(rows.HEADER_KEY) is not None:
                raise ConfigError(f"{folder} already holds a keyring", hint="open it, or choose another folder")
            kek_id, now = random(16), now_ms()
            kek, wrapped = provider.create_epoch(1, rows.epoch_context(archive_id, kek_id, 1))
            epoch = EpochRow(EpochState.ACTIVE, 1, kek_id, now, provider.kind, wrapped)
            made = [(rows.HEADER_KEY, Header(1, archive_id, now).encode()), (rows.epoch_place(1), epoch.encode())]
            for place in (rows.ARCHIVE_ROOT_KEY, rows.SIGNING_KEY):
                row = KeyRow(rows.OWN_KEYS[place], KeyState.ACTIVE, 1, kek_id, now)
                made.append((place, row.wrap(kek, archive_id, rows.NO_ID, Secret(random(32)), random(aead.SALT))))
            store.put(made)
            return cls(store, provider, random, now_ms)
        except BaseException:
            store.close()
            raise

    @staticmethod
    def archive_id_in(folder: Path) -> bytes | None:
        """The 16-byte id of the archive whose keyring is in `folder`; None where none was made. Needs no key.

        Raises IntegrityError, FormatError, UnavailableError.
        """
        if not (folder / "data.mdb").exists():
            return None
        store = RowStore(folder)  # to read only, LMDB does not open a file whose making was stopped
        try:
            header = store.get(rows.HEADER_KEY)
            return Header.decode(header).archive_id if header is not None else None
        finally:
            store.close()

    @classmethod
    def open(
        cls,
        folder: Path,
        provider: KekProvider,
        readonly: bool = False,
        random: Callable[[int], bytes] = os.urandom,
        now_ms: Callable[[], int] = clock_ms,
    ) -> Keyring:
        """Open an existing keyring, with `readonly` safely beside a process that writes.

        Raises NotFoundError when there is none, FormatError or IntegrityError when it is damaged, KeyUnavailableError
        when the provider does not open it, LockedError when this process has it open already.
        """
        store = RowStore(folder, readonly=readonly)
        try:
            return cls(store, provider, random, now_ms)
        except BaseException:
            store.close()
            raise

    @property
    def archive_id(self) -> bytes:
        """The 16-byte id of the archive that this keyring belongs to; every row is bound to it."""
        return self._header.archive_id

    @property
    def epoch(self) -> int:
        """The epoch under whose KEK new keys are wrapped, also when another process made it; from 1 up."""
        self.follow()
        return self._header.epoch

    @property
    def provider_kind(self) -> str:
        """The kind of provider that a rotation makes the next epoch with."""
        return self._provider.kind

    def new_study(self, study_key_id: bytes | None = None) -> StudyKey:
        """Make a study's key under a random 16-byte id (or the given unused one); durable on return."""
        return self._add([self._random(16) if study_key_id is None else study_key_id])[0]

    def new_studies(self, count: int) -> list[StudyKey]:
        """Make `count` keys with one commit; all durable on return, or none exists."""
        return self._add([self._random(16) for _ in range(count)])

    def _add(self, key_ids: list[bytes]) -> list[StudyKey]:
        made = self._try_to_add(key_ids)
        while made is None:  # another process has rotated: its epoch is the one for new keys
            self._load_epochs()
            made = self._try_to_add(key_ids)
        return made

    def _try_to_add(self, key_ids: list[bytes]) -> list[StudyKey] | None:
        """Make keys under the epoch that is known here; None where it is not the current one any more."""
        self.follow()
        header = self._header  # once: another thread may follow another process meanwhile
        kek_id, kek = self._kek(header.epoch)
        made: list[StudyKey] = []
        encoded: list[tuple[bytes, bytes]] = []
        row = KeyRow(Purpose.STUDY, KeyState.ACTIVE, header.epoch, kek_id, self._now_ms())
        with self._writing:
            for key_id in key_ids:
                if len(key_id) != 16 or self.is_used(key_id):
                    raise ConfigError("a study key id has 16 bytes and is used once")
                dek = Secret(self._random(32))
                value = row.wrap(kek, self.archive_id, key_id, dek, self._random(aead.SALT))
                encoded.append((rows.STUDY_PREFIX + key_id, value))
                made.append(StudyKey(key_id, dek))
            if len({key for key, _ in encoded}) != len(encoded):
                raise ConfigError("a study key id has 16 bytes and is used once")
            if not self._store.put(encoded, expected=[(rows.HEADER_KEY, header.encode())]):
                return None
        with self._lock:
            for key in made:
                self._remember(key)
        return made

    def is_used(self, key_id: bytes) -> bool:
        """Whether there is, or was before it was shredded, a key with this id."""
        return any(self._store.get(prefix + key_id) for prefix in (rows.STUDY_PREFIX, rows.TOMBSTONE_PREFIX))

    def study(self, key_id: bytes) -> StudyKey:
        """Return a study's key, from the cache when it was used lately.

        Raises KeyUnavailableError when the keyring has no such row, ShreddedError when it was shredded, also by another
        process a moment ago, IntegrityError when the row was altered or belongs elsewhere.
        """
        seen = self.follow()
        with self._lock:
            cached = self._cache.get(key_id)
            if cached is not None:
                self._cache.move_to_end(key_id)
                return cached
        value = self._store.get(rows.STUDY_PREFIX + key_id)
        name = key_id.hex()[:8]
        if value is None and (stone := self._store.get(rows.TOMBSTONE_PREFIX + key_id)) is not None:
            if Tombstone.decode(stone).reason is Reason.REKEYED:
                raise SupersededError(f"key {name} was replaced by a rekey", hint="the study has a new key: ask again")
            raise ShreddedError(f"key {name} was shredded", hint="what it opened is gone for good")
        try:
            row, dek = self.opened(key_id, value)
        except KeyUnavailableError:
            again = self._store.get(rows.STUDY_PREFIX + key_id)
            if again == value:
                raise
            row, dek = self.opened(key_id, again)  # it was moved to another epoch in between
        if row.state is KeyState.SHRED_SCHEDULED:
            raise ShreddedError(f"key {name} was shredded", hint="what it opened is gone for good")
        key = StudyKey(key_id, dek)
        with self._lock:
            if self._seen == seen:  # else it may have been shredded since it was read
                self._remember(key)
        return key

    def doomed(self, key_id: bytes) -> StudyKey:
        """Return a study's key even when it was shredded, as long as its row is there: for what clears up after it.

        Raises KeyUnavailableError and IntegrityError as `study`.
        """
        return StudyKey(key_id, self.opened(key_id, self._store.get(rows.STUDY_PREFIX + key_id))[1])

    def changes(self) -> int:
        """Return how often keys were taken away from whoever may hold them, by any process, until now; about 4 us."""
        return int.from_bytes(self._store.get(rows.CHANGES_KEY) or b"", "big")

    def follow(self) -> int:
        """Let go of what was taken away by any process, cached keys and destroyed epochs, and return `changes`."""
        changes = self.changes()
        if changes != self._seen:
            header = self._store.get(rows.HEADER_KEY)
            epochs = [EpochRow.decode(value) for _, value in self._store.scan(rows.EPOCH_PREFIX)]
            with self._lock:
                self._header = Header.decode(header or b"")
                for row in epochs:
                    if row.state in rows.GONE:
                        self._keks.pop(row.epoch, None)
                self._cache.clear()
                self._seen = changes
        return changes

    def _kek(self, epoch: int) -> tuple[bytes, Secret]:
        """Return an epoch's KEK id and KEK, also when another process has just made it."""
        if epoch not in self._keks:
            self._load_epochs(epoch)  # a retired one, or another process has rotated
        if epoch not in self._keks:
            raise KeyUnavailableError(f"epoch {epoch} of the keyring cannot be opened (any more)")
        return self._keks[epoch]

    def opened(self, key_id: bytes, value: bytes | None) -> tuple[KeyRow, Secret]:
        """Return a study's row and key from the row's bytes. Raises KeyUnavailableError (None), IntegrityError."""
        if value is None:
            raise KeyUnavailableError(
                f"the keyring has no key {key_id.hex()[:8]}",
                hint="the keyring is older than the log: restore a newer one",
            )
        row = KeyRow.decode(value)
        return row, self._unwrap(row, Purpose.STUDY, key_id)

    def own_key(self, place: bytes) -> Secret:
        """Return one of the archive's own keys, of `rows.OWN_KEYS`, as its row is now. Raises IntegrityError."""
        while True:
            self.follow()
            value = self._store.get(place)
            if value is None:
                raise IntegrityError(
                    "the keyring lacks a key of the archive", hint="restore the keyring from its backup"
                )
            try:
                return self._unwrap(KeyRow.decode(value), rows.OWN_KEYS[place], rows.NO_ID)
            except KeyUnavailableError:
                if self._store.get(place) == value:
                    raise  # else it was moved to another epoch in between

    def sealed(self, row: KeyRow, key_id: bytes, dek: Secret) -> bytes:
        """Return the bytes of a key's row with the key sealed under the epoch that the row names."""
        return row.wrap(self._kek(row.epoch)[1], self.archive_id, key_id, dek, self._random(aead.SALT))

    def row(self, key: bytes) -> bytes | None:
        """Return the bytes of one row as it is now, other processes' commits included."""
        return self._store.get(key)

    def rows(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Return the rows under a prefix in key order; for those of which there are few."""
        return self._store.scan(prefix)

    def amend(
        self,
        put: Sequence[tuple[bytes, bytes]],
        removed: Sequence[bytes] = (),
        expected: Sequence[tuple[bytes, bytes | None]] = (),
    ) -> bool:
        """Change rows as `RowStore.put` does, durable on return; False, and nothing changed, where not as expected."""
        with self._writing:
            return self._store.put(put, removed, expected)

    def _remember(self, key: StudyKey) -> None:
        self._cache[key.key_id] = key
        while len(self._cache) > _CACHED:
            self._cache.popitem(last=False)

    def _unwrap(self, row: KeyRow, purpose: Purpose, key_id: bytes) -> Secret:
        """Open a row under the one KEK that it names."""
        kek_id, kek = self._kek(row.epoch)
        name = key_id.hex()[:8]
        if row.purpose is not purpose or row.kek_id != kek_id:
            raise IntegrityError(f"the keyring row of key {name} was altered")
        try:
            return row.unwrap(kek, self.archive_id, key_id)
        except IntegrityError as error:
            raise IntegrityError(
                f"the keyring row of key {name} was altered or belongs elsewhere", hint="restore the keyring"
            ) from error

    def archive_key(self, label: bytes) -> Secret:
        """Return the archive's 32-byte key for one of `derive`'s labels; the same for the life of the archive."""
        return derive.derive(self._root, label)

    def count(self) -> int:
        """Return the number of study keys; walks the rows, about 1 us each."""
        return self._store.walk(rows.STUDY_PREFIX, lambda _key, _value: None)

    def study_key_ids(self) -> list[bytes]:
        """Return the ids of all study keys, ascending, of one consistent state."""
        found: list[bytes] = []
        self._store.walk(rows.STUDY_PREFIX, lambda key, _: found.append(key[1:]))
        return found

    def complaint(self) -> str | None:
        """Return what is wrong with the rows, or None; reads every one, about 1 us each, and opens none."""
        return self._store.complaint()

    def witness(self) -> bytes | None:
        """Return the signed note of the last checkpoint, as `remember` kept it; None before the first."""
        return self._store.get(rows.WITNESS_KEY)

    def remember(self, note: bytes) -> None:
        """Keep a signed note in place of the last one; durable on return.

        Called before the note is released: what anybody was shown, the keyring knows, and a log that is put back to an
        older state, its checkpoint included, is found by it.
        """
        with self._writing:
            self._store.put([(rows.WITNESS_KEY, note)])

    def require_writable(self) -> None:
        """Return where keys can be made. Raises UnavailableError once a write failed, until it is opened again."""
        self._store.require_writable()

    def epochs(self) -> list[EpochInfo]:
        """Return every epoch this keyring ever had, ascending, with the number of study rows under each."""
        return epochs_in(self._store)

    def epoch_row(self, epoch: int) -> EpochRow:
        """Return an epoch's row as it stands on disk. Raises NotFoundError for an epoch that never was."""
        value = self._store.get(rows.epoch_place(epoch))
        if value is None:
            raise NotFoundError(f"this archive has no key epoch {epoch}")
        return EpochRow.decode(value)

    def is_shut(self) -> bool:
        """Whether the key of the newest epoch that was seen is not in memory: nothing can be stored. Asks nobody."""
        return self._header.epoch not in self._keks

    def prove(self) -> None:
        """Return when the provider still opens the KEK under which new keys are wrapped: then so will the next start.

        Asks the provider. Raises KeyUnavailableError or IntegrityError when the next start would fail for good, else
        what the provider raises.
        """
        self._load_epochs()  # another process may have rotated
        epoch = self.epoch
        row = self.epoch_row(epoch)
        kek_id, kek = self._kek(epoch)
        if row.state in rows.GONE:
            raise KeyUnavailableError(f"key epoch {epoch} was destroyed while it was in use", hint="restart")
        context = rows.epoch_context(self.archive_id, row.kek_id, epoch)
        found = self._provider.of_kind(row.provider).unwrap(row.wrapped, context)
        if row.kek_id != kek_id or not found.matches(kek):
            raise KeyUnavailableError(f"the provider opens another key than the one in use for epoch {epoch}")

    def returned(self) -> Returned:
        """Return the destroyed epochs whose secrets the provider has again, as `keys.providers.returned` finds them."""
        return returned((EpochRow.decode(row) for _, row in self.rows(rows.EPOCH_PREFIX)), self._provider)

    def divide(self, threshold: int, count: int) -> list[Share]:
        """Return shares of the current epoch's KEK, any `threshold` of which give it. Raises InputError.

        Writes nothing: `keys.splitting` says that there are such shares, before anybody has one.
        """
        epoch = self.epoch
        kek_id, kek = self._kek(epoch)
        made_s = self._now_ms() // 1000
        of = Group(self._random(8), self.archive_id, kek_id, epoch, made_s, threshold, count)
        return split(kek, of, self._random)

    def share_groups(self) -> list[Group]:
        """Return the groups of shares that were made, oldest first."""
        return groups_in(self._store)

    def close(self) -> None:
        """Wipe the keys held in memory and close the file. Nothing waits to be written. Harmless when repeated.

        Study keys and derived keys that others still use stay whole until they let go of them.
        """
        with self._lock:
            self._cache.clear()
            for _, kek in self._keks.values():
                kek.wipe()
            self._root.wipe()
            self._store.close()

    @contextmanager
    def alone(self, command: str) -> Iterator[None]:
        """While the block runs nobody else, in any process, changes epochs or who keeps them; they are told `command`.

        May be nested in a thread. Raises LockedError, naming who does.
        """
        with self._changing.held(command, self._now_ms()):
            yield

    def changing(self) -> Holder | None:
        """Return who changes epochs now, in any process; None where nobody does."""
        return self._changing.holder()

    def half_left(self) -> list[int]:
        """Return the epochs that a rotation has begun to leave: one that runs, or one that was stopped."""
        return half_left(self._store)

    def rotate(
        self,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
        event: Callable[[Rotated], tuple[bytes, bytes]] | None = None,
    ) -> Rotated:
        """Move every key under a new epoch's KEK, as `keys.rotation.rotate` says; stores and reads go on meanwhile."""
        with self.alone("a rotation"):
            done = rotate(self._store, self._provider, self._keks, self._random, self._now_ms, progress, event)
        self._load_epochs()
        return done

    def destroy_epoch(
        self, epoch: int, event: Callable[[DestroyReceipt, Destruction], tuple[bytes, bytes]] | None = None
    ) -> DestroyReceipt:
        """Destroy an old epoch's secret for ever, as `keys.destruction.destroy` says."""
        with self.alone("a destruction"):
            receipt = destroy(self._store, self._provider, epoch, self._now_ms, event)
        self._keks.pop(epoch, None)
        return receipt

    def abandon_epoch(self, epoch: int, event: Callable[[EpochRow], tuple[bytes, bytes]]) -> EpochRow:
        """Give an old epoch up whose provider is lost, as `keys.destruction.abandon` says."""
        with self.alone("a destruction"):
            row = abandon(self._store, epoch, event)
        self._keks.pop(epoch, None)
        return row

    def _load_epochs(self, wanted: int = 0) -> None:
        """Read the header and open its epoch, and the one that is wanted, where they are not open yet.

        A retired epoch is opened when a key names it: one whose provider is lost must not keep the others closed.
        """
        header = self._store.get(rows.HEADER_KEY)
        if header is None:
            raise FormatError("the keyring has no header", hint="restore it from its backup")
        self._header = Header.decode(header)
        for key, value in self._store.scan(rows.EPOCH_PREFIX):
            row = EpochRow.decode(value)
            if key != rows.epoch_place(row.epoch):
                raise IntegrityError("an epoch row of the keyring stands under another epoch's number")
            if row.epoch not in (self._header.epoch, wanted):
                continue
            if row.state in rows.GONE or self._keks.get(row.epoch, (b"",))[0] == row.kek_id:
                continue
            keeper = self._provider.of_kind(row.provider)
            context = rows.epoch_context(self.archive_id, row.kek_id, row.epoch)
            self._keks[row.epoch] = (row.kek_id, keeper.unwrap(row.wrapped, context))
        if self._header.epoch not in self._keks:
            raise IntegrityError("the keyring's current epoch has no key", hint="restore the keyring from its backup")
