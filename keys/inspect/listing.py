"""A consistent listing of a keyring's rows, without any key: which keys exist, which are gone and why.

Rule: reads only and unwraps nothing. An invalid row is listed, not raised: an audit reports everything that is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from coffer.keys.errors import FormatError
from coffer.keys.keyring import rows
from coffer.keys.keyring.claims import Claim
from coffer.keys.keyring.keepers import Burned, Keeper
from coffer.keys.keyring.rekey import Rekey
from coffer.keys.keyring.rows import EpochRow, KeyringHeader, KeyRow
from coffer.keys.keyring.tombstone import Tombstone
from coffer.keys.mailbox import clock, orders
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.keys.store.sums import SUM_PREFIX
from coffer.keys.store.writes import COUNT_PREFIX
from coffer.keys.values import waiting_event
from coffer.keys.values.officer_record import RecordKind
from coffer.keys.values.waiting_event import WaitingEvent

__all__ = ["KeyringListing", "list_keyring"]

_NOT_LISTED: Final = frozenset(
    {rows.CHANGES_KEY, rows.CHECKPOINT_KEY, rows.COMPACTED_KEY, rows.SHARES_PREFIX, rows.SPLITTING_PREFIX}
    | {COUNT_PREFIX, SUM_PREFIX, orders.PREFIX, *rows.OWN_KEYS, *(each.value for each in RecordKind)}
)


@dataclass(slots=True)
class KeyringListing:
    """The header; epochs by number; study keys, tombstones and rekeys by key id; claims by token; keepers; waiting
    events; and what is wrong with rows that could not be decoded, or are of no known kind."""

    header: KeyringHeader | None = None
    epochs: dict[int, EpochRow] = field(default_factory=dict)
    keys: dict[bytes, KeyRow] = field(default_factory=dict)
    tombstones: dict[bytes, Tombstone] = field(default_factory=dict)
    rekeys: dict[bytes, Rekey] = field(default_factory=dict)
    claims: dict[bytes, Claim] = field(default_factory=dict)
    keepers: list[Keeper] = field(default_factory=list)
    events: list[WaitingEvent] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def add(self, key: bytes, value: bytes) -> None:
        """Add one row of the keyring, or a complaint about it."""
        prefix, rest = key[:1], key[1:]
        try:
            if key == rows.HEADER_KEY:
                self.header = KeyringHeader.decode(value)
            elif prefix == rows.EPOCH_PREFIX:
                self.epochs[int.from_bytes(rest, "big")] = EpochRow.decode(value)
            elif prefix == rows.STUDY_PREFIX:
                self.keys[rest] = KeyRow.decode(value)
            elif prefix == rows.TOMBSTONE_PREFIX:
                self.tombstones[rest] = Tombstone.decode(value)
            elif prefix == rows.REKEY_PREFIX:
                self.rekeys[rest] = Rekey.decode(rest, value)
            elif prefix == rows.CLAIM_PREFIX:
                self.claims[rest] = Claim.decode(value)
            elif prefix == rows.KEEPER_PREFIX:
                self.keepers.append(Keeper.decode(value))
            elif prefix == rows.BURNED_PREFIX:
                Burned.decode(value)
            elif prefix == waiting_event.PREFIX:
                self.events.append(WaitingEvent.decode(key, value))
            elif key != clock.ROW and prefix not in _NOT_LISTED:
                raise FormatError("a row of the keyring is of a kind that this version never writes")
        except FormatError as error:
            self.complaints.append(f"{error} (row {key.hex()})")


def list_keyring(folder: Path) -> KeyringListing:
    """List the keyring in `folder`, safely beside a writer: one consistent state, about 5 us and 0.5 KB a key.

    Raises NotFoundError, UnavailableError, IntegrityError.
    """
    store = LmdbKeyringStore(folder, readonly=True)
    try:
        found = KeyringListing()
        store.walk(b"", found.add)
        return found
    finally:
        store.close()
