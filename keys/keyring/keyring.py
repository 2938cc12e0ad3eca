"""The keyring: every study's data encryption key (DEK), wrapped under an epoch's KEK, stored outside the log.

Rule: a key is durable before it is handed out, and a row names the one KEK that opens it; no other is tried. The
keyring is as precious as the data itself; the log names every key that was made, shredded or replaced, so the floors
above detect a lost, truncated or rolled-back keyring at open. It does not know studies: a key id is random, not derived
from a UID.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from coffer.keys.clock import clock_ms
from coffer.keys.crypto import derive, selftest
from coffer.keys.crypto.shamir import Group, Share, split
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.disk.lock import Holder
from coffer.keys.errors import ConfigError, IntegrityError, KeyUnavailableError
from coffer.keys.keyring import founding, rows
from coffer.keys.keyring.claims import Claims
from coffer.keys.keyring.epoch_end import EpochDestruction, Receipt, abandon, destroy
from coffer.keys.keyring.epochs import OpenEpochs
from coffer.keys.keyring.keepers import Burned, Keeper, burned_in, groups_in, keepers_in
from coffer.keys.keyring.overview import EpochInfo, changes_in, epochs_in, partly_rotated
from coffer.keys.keyring.returned import Returned
from coffer.keys.keyring.rotation import Rotated, rotate
from coffer.keys.keyring.rows import EpochRow, KeyRow
from coffer.keys.keyring.studies import StudyKeys
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.base import KekProvider
from coffer.keys.store.keyring_store import KEYS_LOCK, Changes, KeyringStore, scan
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.keys.store.reached import Reached
from coffer.keys.store.sums import BUCKETS, SUM_PREFIX, RowSums, bucket_of
from coffer.keys.values.epoch import Epoch
from coffer.keys.values.waiting_event import WaitingEvent

__all__ = ["Keyring"]


class Keyring:
    """An open keyring. Thread-safe. Make one with `create` or `open`; several processes may write in turn."""

    def __init__(
        self, store: KeyringStore, provider: KekProvider, random: Callable[[int], bytes], now_ms: Callable[[], int]
    ) -> None:
        """Read the header; open its epoch and the archive root key. `create` and `open` call this."""
        selftest.require()
        self._store = store
        self._provider = provider
        self._random = random
        self._now_ms = now_ms
        self._changing = store.lock(KEYS_LOCK)
        self._writing = threading.Lock()  # held during a commit, so that cached keys stay available meanwhile
        seen = changes_in(store)  # before the epochs are read: a change in between is picked up later
        self._epochs = OpenEpochs(store, provider)
        self._studies = StudyKeys(store, self._epochs, writing=self._writing, random=random, now_ms=now_ms, seen=seen)
        self._root = self.own_key(rows.ARCHIVE_ROOT_KEY)
        store.authenticate(RowSums.under(self._root, random))
        token_key = self.archive_key(derive.CLAIM)
        self.claims = Claims(store, self._studies, token_key, writing=self._writing, random=random, seen=seen)

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
        store = LmdbKeyringStore(folder, create=True)
        try:
            founding.create_rows(store, provider, archive_id, random, now_ms)
            return cls(store, provider, random, now_ms)
        except BaseException:
            store.close()
            raise

    @classmethod
    def open(
        cls,
        folder: Path,
        provider: KekProvider,
        readonly: bool = False,
        random: Callable[[int], bytes] = os.urandom,
        now_ms: Callable[[], int] = clock_ms,
    ) -> Keyring:
        """Open an existing keyring; with `readonly`, safely beside a process that writes.

        Raises NotFoundError when there is none, FormatError or IntegrityError when it is damaged, KeyUnavailableError
        when the provider cannot open it, LockedError when this process has it open already.
        """
        store = LmdbKeyringStore(folder, readonly=readonly)
        try:
            return cls(store, provider, random, now_ms)
        except BaseException:
            store.close()
            raise

    @property
    def archive_id(self) -> bytes:
        """The 16-byte id of the archive that this keyring belongs to; every row is bound to it."""
        return self._epochs.header.archive_id

    @property
    def epoch(self) -> int:
        """The current epoch, from 1, whose KEK wraps new keys; other processes' rotations included."""
        self.follow()
        return self._epochs.header.epoch

    @property
    def provider_kind(self) -> str:
        """The kind of provider that will keep the next epoch."""
        return self._provider.kind

    def new_study(self, study_key_id: bytes | None = None) -> StudyKey:
        """Make a study's key under a random 16-byte id, or the given unused one; durable on return."""
        return self._studies.make([self._random(16) if study_key_id is None else study_key_id])[0]

    def new_studies(self, count: int) -> list[StudyKey]:
        """Make `count` keys in one commit; all are durable on return, or none exists."""
        return self._studies.make([self._random(16) for _ in range(count)])

    def is_used(self, key_id: bytes) -> bool:
        """Whether a key with this id exists, or existed before it was shredded."""
        return self._studies.is_used(key_id)

    def study(self, key_id: bytes) -> StudyKey:
        """Return a study's key, from the cache if it was used recently.

        Raises KeyUnavailableError when the keyring has no such row, ShreddedError when any process has shredded it,
        SupersededError when a rekey replaced it, IntegrityError when the row was altered or belongs elsewhere.
        """
        return self._studies.get(key_id)

    def study_even_if_shredded(self, key_id: bytes) -> StudyKey:
        """Return a study's key even after it was shredded, while its row still exists: for clearing the index.

        Raises KeyUnavailableError and IntegrityError as `study`.
        """
        return StudyKey(key_id, self.opened(key_id, self._store.get(rows.STUDY_PREFIX + key_id))[1])

    def state(self) -> bytes:
        """Return what differs after every change of a row."""
        return b"".join(value for _, value in self.rows(SUM_PREFIX))

    def changes(self) -> int:
        """Return the number of the feed's newest entry: it grows when any process takes keys away or changes what is
        allowed; about 4 us."""
        return changes_in(self._store)

    def gone_since(self, number: int) -> Changes:
        """Return the feed's entries behind this number, as `KeyringStore.changes`."""
        return self._store.changes(number)

    def follow(self) -> int:
        """Drop the cached keys that any process has taken away, and the KEKs of ended epochs. Returns `changes`."""
        return self._studies.follow()

    def opened(self, key_id: bytes, value: bytes | None) -> tuple[KeyRow, Secret]:
        """Return a study's row and key from the row's bytes. Raises KeyUnavailableError for None, IntegrityError."""
        return self._studies.open(key_id, value)

    def own_key(self, row_key: bytes) -> Secret:
        """Return one of the archive's own keys (`rows.OWN_KEYS`) from its present row. Raises IntegrityError."""
        while True:
            self.follow()
            value = self._store.get(row_key)
            if value is None:
                raise IntegrityError(
                    "the keyring lacks a key of the archive", hint="restore the keyring from its backup"
                )
            try:
                return self._epochs.unwrap(KeyRow.decode(value), rows.OWN_KEYS[row_key], rows.NO_ID)
            except KeyUnavailableError:
                if self._store.get(row_key) == value:
                    raise  # otherwise a rotation moved it to another epoch in between

    def sealed(self, row: KeyRow, key_id: bytes, dek: Secret) -> bytes:
        """Return the row's bytes with the key `dek` sealed under the epoch that the row names."""
        return row.wrap(self._epochs.kek(row.epoch)[1], self.archive_id, key_id, dek, self._random)

    def row(self, key: bytes) -> bytes | None:
        """Return the value of a row, None where there is none; other processes' commits included."""
        return self._store.get(key)

    def rows(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Return the rows under a prefix, in key order; for prefixes with few rows."""
        return scan(self._store, prefix)

    def amend(
        self,
        put: Sequence[tuple[bytes, bytes]],
        removed: Sequence[bytes] = (),
        expected: Sequence[tuple[bytes, bytes | None]] = (),
        gone: Sequence[bytes] = (),
    ) -> bool:
        """Change rows as `KeyringStore.put`; durable on return. False, with nothing changed, where a row is not as
        expected."""
        with self._writing:
            return self._store.put(put, removed, expected, gone)

    def archive_key(self, label: bytes) -> Secret:
        """Return the archive's 32-byte key for one of `derive`'s labels; it never changes."""
        return derive.derive(self._root, label)

    def count(self) -> int:
        """Return the number of study keys, which the store keeps count of."""
        return self._store.count(rows.STUDY_PREFIX)

    def study_key_ids(self) -> list[bytes]:
        """Return the ids of all study keys, ascending, from one consistent state."""
        found: list[bytes] = []
        self._store.walk(rows.STUDY_PREFIX, lambda key, _: found.append(key[1:]))
        return found

    def complaint(self) -> str | None:
        """Return how the rows differ from those that were written, or None. Reads every row, about 3 us each, and opens
        none."""
        return self._store.complaint()

    def require_whole(self) -> None:
        """Return if all rows are those that were written; the first call reads them, about 3 us each, where there are
        many in 256 steps between which others are served.

        Whoever acts on what the keyring says, and not just on a key that opens, calls it before: to shred, to end an
        epoch, to sign, to append an event that waits here. Raises IntegrityError.
        """
        self._store.require_right(range(BUCKETS))
        self._store.require_kept()

    def require_genuine(self, row_keys: Iterable[bytes]) -> None:
        """Return if these rows are those that were written, and so is every other row; these as they are now, however
        long the keyring has been open, and before something is done that cannot be undone. Raises IntegrityError."""
        self.require_whole()
        self._store.require_right({bucket_of(key) for key in row_keys}, again=True)

    def require_kept(self, since: Reached | None = None) -> Reached:
        """Return how far the rows are: no less than this object, or another (`since`), has written or seen, else raises
        HistoryError. As `KeyringStore.require_kept`."""
        return self._store.require_kept(since)

    def objection(self) -> IntegrityError | None:
        """Return why nothing may be written with this keyring, or None: the bucket with all that is needed before any
        study key is not as it was written, or one of them was put back or comes from a copy. Reads one bucket."""
        try:
            self._store.require_right([0])
            self._store.require_kept()
        except IntegrityError as error:
            return error
        return None

    def remembered_checkpoint(self) -> bytes | None:
        """Return the signed note that `remember_checkpoint` stored last; None before the first."""
        return self._store.get(rows.CHECKPOINT_KEY)

    def remember_checkpoint(self, note: bytes) -> None:
        """Store a checkpoint's signed note in place of the last one; durable on return.

        Call it before the note is released: then the keyring knows every published checkpoint, and a log that is rolled
        back together with its checkpoint is detected. With it begins a new lineage, as with `begin_lineage`.
        """
        with self._writing:
            self._store.fold([(rows.CHECKPOINT_KEY, note)])

    def begin_lineage(self) -> None:
        """Part from every copy, durable on return: neither takes a bucket that the other writes from now on. The one
        writer calls it when it opens. Raises IntegrityError where one was put back or came from a copy."""
        with self._writing:
            self._store.fold([])

    def require_writable(self) -> None:
        """Return if keys can be made. Raises UnavailableError after a failed write, until the keyring is reopened."""
        self._store.require_writable()

    def epochs(self) -> list[EpochInfo]:
        """Return every epoch that this keyring ever had, ascending, with the number of study rows under each."""
        return epochs_in(self._store)

    def epoch_row(self, epoch: int) -> EpochRow:
        """Return an epoch's row from disk. Raises NotFoundError for an epoch that never existed."""
        return self._epochs.row(epoch)

    def epoch_facts(self, epoch: int) -> Epoch:
        """Return an epoch as the floors above may know it. Raises as `epoch_row`."""
        return self.epoch_row(epoch).facts

    def epoch_age_seconds(self, now_ms: int) -> float:
        """Return the age of the current epoch in seconds at `now_ms` (ms since 1970 UTC)."""
        return max(0.0, (now_ms - self.epoch_row(self.epoch).created_ms) / 1000)

    def lacks_current_kek(self) -> bool:
        """Whether the newest known epoch's KEK is not in memory, so nothing can be stored. Calls no provider."""
        return self._epochs.lacks_current_kek()

    def check_provider(self) -> None:
        """Check that the provider still opens the KEK that wraps new keys, as the next start must.

        Calls the provider. Raises as `OpenEpochs.check_provider`.
        """
        self._epochs.load()  # another process may have rotated
        self._epochs.check_provider(self.epoch)

    def returned(self) -> Returned:
        """Return the destroyed epochs whose secrets a provider holds again: see `keys.keyring.returned`."""
        return self._epochs.returned()

    def make_shares(self, threshold: int, count: int) -> list[Share]:
        """Return shares of the current epoch's KEK, any `threshold` of which recover it. Raises InputError.

        Writes nothing: `keys.shares.groups` must record the group before anyone gets a share.
        """
        epoch = self.epoch
        kek_id, kek = self._epochs.kek(epoch)
        made_s = self._now_ms() // 1000
        of = Group(self._random(8), self.archive_id, kek_id, epoch, made_s, threshold, count)
        return split(kek, of, self._random)

    def keepers(self) -> list[Keeper]:
        """Return every provider's secret that ever opened an epoch's key, by epoch."""
        return keepers_in(self._store)

    def burned(self) -> dict[bytes, Burned]:
        """Return the burned shares by group; a group without any is absent."""
        return burned_in(self._store)

    def share_groups(self) -> list[Group]:
        """Return the groups of shares ever made, oldest first."""
        return groups_in(self._store)

    def close(self) -> None:
        """Wipe the keys in memory and close the store. No write is pending. Harmless when repeated.

        Study keys and derived keys that others still reference stay intact until those are dropped.
        """
        self._studies.close()
        self._root.wipe()
        self._store.close()

    @contextmanager
    def exclusive(self, command: str) -> Iterator[None]:
        """Hold the keyring's lock while the block runs: no other process or thread changes epochs or keepers.

        Others are shown `command`. Reentrant in one thread. Raises LockedError, naming the holder.
        """
        with self._changing.held(command, self._now_ms()):
            yield

    def change_holder(self) -> Holder | None:
        """Return who is changing epochs now, in any process, or None."""
        return self._changing.holder()

    def partly_rotated(self) -> list[int]:
        """Return the older epochs that a rotation has not retired yet: it is running, or was interrupted."""
        return partly_rotated(self._store)

    def rotate(
        self,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
        event: Callable[[Rotated], WaitingEvent] | None = None,
    ) -> Rotated:
        """Move every key under a new epoch's KEK: see `keys.keyring.rotation.rotate`. Stores and reads continue
        meanwhile."""
        with self.exclusive("a rotation"):
            self.require_whole()
            done = rotate(self._store, self._provider, self._epochs.keks, self._random, self._now_ms, progress, event)
        self._epochs.load()
        return done

    def destroy_epoch(
        self, epoch: int, event: Callable[[Receipt], WaitingEvent] | None = None, provider: KekProvider | None = None
    ) -> EpochDestruction:
        """Destroy for ever the secrets that open an old epoch: see `keys.keyring.epoch_end.destroy`. A given `provider`
        is called instead of the keyring's own."""
        with self.exclusive("a destruction"):
            self.require_whole()
            ending = destroy(self._store, provider or self._provider, epoch, self._now_ms, event)
        self._epochs.forget(epoch)
        return ending

    def abandon_epoch(self, epoch: int, event: Callable[[Epoch], WaitingEvent]) -> Epoch:
        """Abandon an old epoch whose provider is lost: see `keys.keyring.epoch_end.abandon`."""
        with self.exclusive("a destruction"):
            self.require_whole()
            given_up = abandon(self._store, epoch, event)
        self._epochs.forget(epoch)
        return given_up
