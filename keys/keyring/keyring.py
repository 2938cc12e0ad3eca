"""The keyring: every study's data encryption key (DEK), wrapped under the current epoch's KEK, outside the log.

Rule: a key is durable before it is handed out, and a row names the one KEK that opens it: several keys are never tried.
The keyring is as precious as all data; the log names every key that was made, shredded or replaced, so a lost, cut or
rolled-back keyring is found at open by the floors above. It does not know studies: a key id is random, not derived from
a UID.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from coffer.keys.clock import clock_ms
from coffer.keys.crypto import aead, derive, selftest
from coffer.keys.crypto.shamir import Group, Share, split
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.disk.lock import ChangeLock, Holder
from coffer.keys.errors import ConfigError, IntegrityError, KeyUnavailableError
from coffer.keys.keyring import founding, rows
from coffer.keys.keyring.epoch_end import EpochDestruction, Receipt, abandon, destroy
from coffer.keys.keyring.epochs import OpenEpochs
from coffer.keys.keyring.keepers import Burned, Keeper, burned_in, groups_in, keepers_in
from coffer.keys.keyring.overview import EpochInfo, changes_in, epochs_in, partly_rotated
from coffer.keys.keyring.returned import Returned
from coffer.keys.keyring.rotation import Rotated, rotate
from coffer.keys.keyring.rows import EpochRow, KeyRow
from coffer.keys.keyring.store import RowStore
from coffer.keys.keyring.studies import StudyKeys
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.base import KekProvider

__all__ = ["Keyring"]


class Keyring:
    """An open keyring. Thread-safe. Make one with `create` or `open`; several processes may write in turn."""

    def __init__(
        self,
        store: RowStore,
        provider: KekProvider,
        random: Callable[[int], bytes],
        now_ms: Callable[[], int],
    ) -> None:
        """Read the header and open its epoch and the archive's own key; `create` and `open` call this."""
        selftest.require()
        self._store = store
        self._provider = provider
        self._random = random
        self._now_ms = now_ms
        self._changing = ChangeLock(store.folder)
        self._writing = threading.Lock()  # held over a commit, so that cached keys stay at hand meanwhile
        seen = changes_in(store)  # before the epochs are read: a change that comes in between is followed later
        self._epochs = OpenEpochs(store, provider)
        self._studies = StudyKeys(store, self._epochs, writing=self._writing, random=random, now_ms=now_ms, seen=seen)
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
        return self._epochs.header.archive_id

    @property
    def epoch(self) -> int:
        """The epoch under whose KEK new keys are wrapped, also when another process made it; from 1 up."""
        self.follow()
        return self._epochs.header.epoch

    @property
    def provider_kind(self) -> str:
        """The kind of provider that a rotation makes the next epoch with."""
        return self._provider.kind

    def new_study(self, study_key_id: bytes | None = None) -> StudyKey:
        """Make a study's key under a random 16-byte id (or the given unused one); durable on return."""
        return self._studies.make([self._random(16) if study_key_id is None else study_key_id])[0]

    def new_studies(self, count: int) -> list[StudyKey]:
        """Make `count` keys with one commit; all durable on return, or none exists."""
        return self._studies.make([self._random(16) for _ in range(count)])

    def is_used(self, key_id: bytes) -> bool:
        """Whether there is, or was before it was shredded, a key with this id."""
        return self._studies.is_used(key_id)

    def study(self, key_id: bytes) -> StudyKey:
        """Return a study's key, from the cache when it was used lately.

        Raises KeyUnavailableError when the keyring has no such row, ShreddedError when it was shredded, also by another
        process a moment ago, IntegrityError when the row was altered or belongs elsewhere.
        """
        return self._studies.get(key_id)

    def study_even_if_shredded(self, key_id: bytes) -> StudyKey:
        """Return a study's key even when it was shredded, as long as its row is there: for what clears up after it.

        Raises KeyUnavailableError and IntegrityError as `study`.
        """
        return StudyKey(key_id, self.opened(key_id, self._store.get(rows.STUDY_PREFIX + key_id))[1])

    def changes(self) -> int:
        """Return how often keys were taken away from whoever may hold them, by any process, until now; about 4 us."""
        return changes_in(self._store)

    def follow(self) -> int:
        """Let go of what was taken away by any process, cached keys and destroyed epochs, and return `changes`."""
        return self._studies.follow()

    def opened(self, key_id: bytes, value: bytes | None) -> tuple[KeyRow, Secret]:
        """Return a study's row and key from the row's bytes. Raises KeyUnavailableError (None), IntegrityError."""
        return self._studies.open(key_id, value)

    def own_key(self, row_key: bytes) -> Secret:
        """Return one of the archive's own keys, of `rows.OWN_KEYS`, as its row is now. Raises IntegrityError."""
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
                    raise  # else it was moved to another epoch in between

    def sealed(self, row: KeyRow, key_id: bytes, dek: Secret) -> bytes:
        """Return the bytes of a key's row with the key sealed under the epoch that the row names."""
        return row.wrap(self._epochs.kek(row.epoch)[1], self.archive_id, key_id, dek, self._random(aead.SALT))

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

    def remembered_checkpoint(self) -> bytes | None:
        """Return the signed note of the last checkpoint, as `remember` kept it; None before the first."""
        return self._store.get(rows.CHECKPOINT_KEY)

    def remember_checkpoint(self, note: bytes) -> None:
        """Keep a signed note in place of the last one; durable on return.

        Called before the note is released: what anybody was shown, the keyring knows, and a log that is put back to an
        older state, its checkpoint included, is found by it.
        """
        with self._writing:
            self._store.put([(rows.CHECKPOINT_KEY, note)])

    def require_writable(self) -> None:
        """Return where keys can be made. Raises UnavailableError once a write failed, until it is opened again."""
        self._store.require_writable()

    def epochs(self) -> list[EpochInfo]:
        """Return every epoch this keyring ever had, ascending, with the number of study rows under each."""
        return epochs_in(self._store)

    def epoch_row(self, epoch: int) -> EpochRow:
        """Return an epoch's row as it stands on disk. Raises NotFoundError for an epoch that never was."""
        return self._epochs.row(epoch)

    def epoch_age_seconds(self, now_ms: int) -> float:
        """The age of the current epoch at `now_ms` (ms since 1970 UTC)."""
        return max(0.0, (now_ms - self.epoch_row(self.epoch).created_ms) / 1000)

    def lacks_current_kek(self) -> bool:
        """Whether the key of the newest epoch that was seen is not in memory: nothing can be stored. Asks nobody."""
        return self._epochs.lacks_current_kek()

    def check_provider(self) -> None:
        """Return when the provider still opens the KEK under which new keys are wrapped: then so will the next start.

        Asks the provider. Raises as `OpenEpochs.prove`.
        """
        self._epochs.load()  # another process may have rotated
        self._epochs.check_provider(self.epoch)

    def returned(self) -> Returned:
        """Return the destroyed epochs whose secrets the provider has again, as `keys.providers.routing.returned` finds
        them."""
        return self._epochs.returned()

    def make_shares(self, threshold: int, count: int) -> list[Share]:
        """Return shares of the current epoch's KEK, any `threshold` of which give it. Raises InputError.

        Writes nothing: `keys.shares.groups` says that there are such shares, before anybody has one.
        """
        epoch = self.epoch
        kek_id, kek = self._epochs.kek(epoch)
        made_s = self._now_ms() // 1000
        of = Group(self._random(8), self.archive_id, kek_id, epoch, made_s, threshold, count)
        return split(kek, of, self._random)

    def keepers(self) -> list[Keeper]:
        """Return every secret of a provider that ever opened an epoch's key, by epoch."""
        return keepers_in(self._store)

    def burned(self) -> dict[bytes, Burned]:
        """Return by group which of its shares are burned; groups of which none is are left out."""
        return burned_in(self._store)

    def share_groups(self) -> list[Group]:
        """Return the groups of shares that were made, oldest first."""
        return groups_in(self._store)

    def close(self) -> None:
        """Wipe the keys held in memory and close the file. Nothing waits to be written. Harmless when repeated.

        Study keys and derived keys that others still use stay whole until they let go of them.
        """
        self._studies.close()
        self._root.wipe()
        self._store.close()

    @contextmanager
    def exclusive(self, command: str) -> Iterator[None]:
        """While the block runs nobody else, in any process, changes epochs or who keeps them; they are told `command`.

        May be nested in a thread. Raises LockedError, naming who does.
        """
        with self._changing.held(command, self._now_ms()):
            yield

    def change_holder(self) -> Holder | None:
        """Return who changes epochs now, in any process; None where nobody does."""
        return self._changing.holder()

    def partly_rotated(self) -> list[int]:
        """Return the epochs that a rotation has begun to leave: one that runs, or one that was stopped."""
        return partly_rotated(self._store)

    def rotate(
        self,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
        event: Callable[[Rotated], tuple[bytes, bytes]] | None = None,
    ) -> Rotated:
        """Move every key under a new epoch's KEK, as `keys.keyring.rotation.rotate` says; stores and reads go on
        meanwhile."""
        with self.exclusive("a rotation"):
            done = rotate(self._store, self._provider, self._epochs.keks, self._random, self._now_ms, progress, event)
        self._epochs.load()
        return done

    def destroy_epoch(
        self,
        epoch: int,
        event: Callable[[Receipt], tuple[bytes, bytes]] | None = None,
        provider: KekProvider | None = None,
    ) -> EpochDestruction:
        """Destroy for ever what opens an old epoch, as `keys.keyring.epoch_end.destroy` says; `provider`, where it is
        given,
        is asked in place of the keyring's own."""
        with self.exclusive("a destruction"):
            ending = destroy(self._store, provider or self._provider, epoch, self._now_ms, event)
        self._epochs.forget(epoch)
        return ending

    def abandon_epoch(self, epoch: int, event: Callable[[EpochRow], tuple[bytes, bytes]]) -> EpochRow:
        """Give an old epoch up whose provider is lost, as `keys.keyring.epoch_end.abandon` says."""
        with self.exclusive("a destruction"):
            row = abandon(self._store, epoch, event)
        self._epochs.forget(epoch)
        return row
