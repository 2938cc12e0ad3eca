"""A keyring looked at without any key, one question at a time: what became of a key, an epoch and its openers.

Rule: reads only and unwraps nothing; each answer is of the last commit of any process. For everything at once, in one
consistent state, there is `keys.inspect.listing`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from coffer.keys.crypto.shamir import Group
from coffer.keys.keyring import rows
from coffer.keys.keyring.keepers import Burned, Keeper, burned_in, groups_in, keepers_in
from coffer.keys.keyring.rows import EpochRow
from coffer.keys.keyring.tombstone import Tombstone
from coffer.keys.store.keyring_store import Changes, scan
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.keys.values.epoch import EpochState

__all__ = ["KeyringView"]


class KeyringView:
    """The keyring in a folder, open for reading, safely beside a writer. Use as a context manager. Thread-safe.

    Every method raises UnavailableError, IntegrityError for damage, and FormatError for a row that breaks FORMAT.md.
    """

    def __init__(self, folder: Path) -> None:
        """Raises NotFoundError when there is no keyring, LockedError when this process has it open already."""
        self._store = LmdbKeyringStore(folder, readonly=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Harmless when repeated."""
        self._store.close()

    def changes(self, after: int) -> Changes:
        """Return the feed's entries behind a number, as `KeyringStore.changes`; about 4 us when there are none."""
        return self._store.changes(after)

    def has_key(self, key_id: bytes) -> bool:
        """Whether the wrapped form of a study's key is there."""
        return self._store.get(rows.STUDY_PREFIX + key_id) is not None

    def tombstone(self, key_id: bytes) -> Tombstone | None:
        """Return a destroyed key's tombstone, None where there is none."""
        value = self._store.get(rows.TOMBSTONE_PREFIX + key_id)
        return None if value is None else Tombstone.decode(value)

    def tombstones(self) -> dict[bytes, Tombstone]:
        """Return every tombstone, by key id."""
        return {key[1:]: Tombstone.decode(value) for key, value in scan(self._store, rows.TOMBSTONE_PREFIX)}

    def epoch_state(self, epoch: int) -> EpochState | None:
        """Return an epoch's state, None for one that the keyring does not know."""
        value = self._store.get(rows.epoch_row_key(epoch))
        return None if value is None else EpochRow.decode(value).state

    def keepers(self, epoch: int) -> list[Keeper]:
        """Return every provider's secret that ever opened an epoch's key."""
        return keepers_in(self._store, epoch)

    def share_groups(self) -> list[Group]:
        """Return the groups of shares ever made, oldest first."""
        return groups_in(self._store)

    def burned(self) -> dict[bytes, Burned]:
        """Return the burned shares by group; a group without any is absent."""
        return burned_in(self._store)
