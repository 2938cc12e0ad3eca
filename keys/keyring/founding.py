"""Create a keyring's first rows: header, epoch 1, and the archive's own keys under it.

Rule: the epoch's secret is durable at its provider before a row names it, and one commit writes all rows or none. After
a crash the same call completes the folder.
"""

from __future__ import annotations

from collections.abc import Callable

from coffer.keys.crypto import derive
from coffer.keys.crypto.hedge import new_key
from coffer.keys.errors import ConfigError
from coffer.keys.keyring import rows
from coffer.keys.keyring.keepers import Keeper
from coffer.keys.keyring.rows import EpochRow, KeyringHeader, KeyRow, KeyState
from coffer.keys.providers.base import KekProvider
from coffer.keys.store.keyring_store import KeyringStore
from coffer.keys.store.sums import RowSums
from coffer.keys.values.epoch import EpochState

__all__ = ["create_rows"]


def create_rows(
    store: KeyringStore,
    provider: KekProvider,
    archive_id: bytes,
    random: Callable[[int], bytes],
    now_ms: Callable[[], int],
) -> None:
    """Write the first rows of an empty store, with an archive root key and a signing key; durable on return.

    Takes the archive's 16-byte id. Raises ConfigError where a keyring exists already, and what the provider raises.
    """
    exists = ConfigError(f"{store.name} already holds a keyring", hint="open it, or choose another folder")
    if store.get(rows.HEADER_KEY) is not None:
        raise exists
    kek_id, now = random(16), now_ms()
    kek, wrapped = provider.create_epoch(1, rows.epoch_context(archive_id, kek_id, 1))
    epoch = EpochRow(EpochState.ACTIVE, 1, kek_id, now, provider.kind, wrapped)
    keeper = Keeper.of(1, provider.kind, provider.holding(1))
    made = [
        (rows.HEADER_KEY, KeyringHeader(1, archive_id, now).encode()),
        (rows.epoch_row_key(1), epoch.encode()),
        (keeper.row_key, keeper.encode()),
    ]
    hedge = derive.derive(kek, derive.HEDGE)
    own = {each: new_key(hedge, random, archive_id, each) for each in (rows.ARCHIVE_ROOT_KEY, rows.SIGNING_KEY)}
    for row_key, key in own.items():
        row = KeyRow(rows.OWN_KEYS[row_key], KeyState.ACTIVE, 1, kek_id, now)
        made.append((row_key, row.wrap(kek, archive_id, rows.NO_ID, key, random)))
    if not store.begin(made, RowSums.under(own[rows.ARCHIVE_ROOT_KEY], random)):
        raise exists  # by another process, meanwhile
