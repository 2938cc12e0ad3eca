"""What a keyring shows without any key: its epochs, their keepers, and the shares that were made.

Rule: reads only and unwraps nothing, so an administrator can see where the keys are while no provider opens them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coffer.keys.crypto.shamir import Group
from coffer.keys.disk import opening
from coffer.keys.disk.lock import Holder
from coffer.keys.errors import FormatError
from coffer.keys.keyring import rows
from coffer.keys.keyring.keepers import Burned, Keeper, burned_in, groups_in, keepers_in
from coffer.keys.keyring.rows import EpochRow, KeyringHeader
from coffer.keys.store.keyring_store import KEYS_LOCK, KeyringStore, scan
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.keys.values.epoch import EpochState

__all__ = [
    "EpochInfo",
    "Overview",
    "archive_id_in",
    "changes_in",
    "epoch_rows",
    "epochs_in",
    "header_in",
    "keys_under",
    "overview",
    "partly_rotated",
]


@dataclass(frozen=True, slots=True)
class EpochInfo:
    """One epoch, for an administrator: number, kind of the provider that opens it now, state, creation (ms since 1970),
    number of study rows, from when on (ms since 1970) no provider can restore its secrets (None: not destroyed), and
    every secret that ever opened it."""

    epoch: int
    provider: str
    state: EpochState
    created_ms: int
    rows: int
    gone_ms: int | None
    keepers: tuple[Keeper, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """The current epoch; every epoch, ascending; every group of shares, oldest first; their burned shares by group; the
    ids of groups whose shares are not all written; the epochs that an unfinished rotation still has to retire; who is
    changing the keys now; and whether a rotation of the signing key is unfinished."""

    current: int
    epochs: tuple[EpochInfo, ...]
    groups: tuple[Group, ...]
    burned: dict[bytes, Burned]
    unfinished: frozenset[bytes]
    partly_rotated: tuple[int, ...]
    changing: Holder | None
    is_signing_key_changing: bool


def header_in(store: KeyringStore) -> KeyringHeader:
    """Return the keyring's header. Raises FormatError."""
    value = store.get(rows.HEADER_KEY)
    if value is None:
        raise FormatError("the keyring has no header", hint=f"put the newest copy of {store.name} back")
    return KeyringHeader.decode(value)


def changes_in(store: KeyringStore) -> int:
    """Return the number of the feed's newest entry; about 4 us."""
    return int.from_bytes(store.get(rows.CHANGES_KEY) or b"", "big")


def epoch_rows(store: KeyringStore) -> list[EpochRow]:
    """Return every epoch's row, ascending. Raises FormatError."""
    return [EpochRow.decode(value) for _, value in scan(store, rows.EPOCH_PREFIX)]


def partly_rotated(store: KeyringStore) -> list[int]:
    """Return the older epochs that a rotation has not retired yet: it is running, or was interrupted."""
    current = header_in(store).epoch
    return [row.epoch for row in epoch_rows(store) if row.state is EpochState.ACTIVE and row.epoch < current]


def epochs_in(store: KeyringStore) -> list[EpochInfo]:
    """Return every epoch that the keyring ever had, ascending, with the number of study rows under each."""
    keepers: dict[int, list[Keeper]] = {}
    for each in keepers_in(store):
        keepers.setdefault(each.epoch, []).append(each)
    return [_info(row, keys_under(store, row.epoch), tuple(keepers.get(row.epoch, ()))) for row in epoch_rows(store)]


def keys_under(store: KeyringStore, epoch: int) -> int:
    """Return the number of study keys under an epoch."""
    return store.count(rows.STUDY_PREFIX, epoch.to_bytes(4, "big"))


def _info(row: EpochRow, used: int, keepers: tuple[Keeper, ...]) -> EpochInfo:
    is_over = row.state is EpochState.DESTROYED and all(each.is_ended for each in keepers)
    gone_ms = max((each.effective_ms for each in keepers), default=None) if is_over else None
    return EpochInfo(row.epoch, row.provider, row.state, row.created_ms, used, gone_ms, keepers)


def archive_id_in(folder: Path) -> bytes | None:
    """Return the 16-byte id of the archive whose keyring is in `folder`, None where there is no keyring. Needs no key.

    Raises IntegrityError, FormatError, UnavailableError.
    """
    if not opening.exists(folder / "data.mdb"):
        return None
    store = LmdbKeyringStore(folder)  # LMDB does not open a half-created file read-only
    try:
        header = store.get(rows.HEADER_KEY)
        return KeyringHeader.decode(header).archive_id if header is not None else None
    finally:
        store.close()


def overview(folder: Path) -> Overview:
    """Read the keyring in `folder`, safely beside a writer. Raises NotFoundError, FormatError, IntegrityError."""
    store = LmdbKeyringStore(folder, readonly=True)
    try:
        left = tuple(partly_rotated(store))
        changing = store.lock(KEYS_LOCK).holder()
        current = header_in(store).epoch
        groups, unfinished = groups_in(store), frozenset(key[1:] for key, _ in scan(store, rows.SPLITTING_PREFIX))
        signing = store.get(rows.NEXT_SIGNING_KEY) is not None
        burned = burned_in(store)
        return Overview(current, tuple(epochs_in(store)), tuple(groups), burned, unfinished, left, changing, signing)
    finally:
        store.close()
