"""Everything that could ever open an epoch's key: its keepers (each a provider's secret that wrapped it) and shares.

Rule: the keyring records a keeper, or a group of shares, before it can be used, and never removes a keeper. When an
epoch moves to another provider the earlier keepers stay: older copies of the keyring still name them. A keeper counts
until there is a receipt for exactly this secret, not for another one of the same kind. Layout: FORMAT.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from coffer.keys.crypto.shamir import Group
from coffer.keys.errors import FormatError, IntegrityError
from coffer.keys.keyring import rows
from coffer.keys.keyring.rows import EpochRow
from coffer.keys.providers.base import Holding
from coffer.keys.store.keyring_store import KeyringStore, scan

__all__ = [
    "LAYOUT",
    "Burned",
    "Keeper",
    "KeeperState",
    "burned_in",
    "burned_row_key",
    "groups_in",
    "keepers_in",
    "require_keeper",
]

LAYOUT: Final = struct.Struct(">HBxI16s16sQQH")  # version state pad epoch id kind receipt_ms effective_ms name_length
BURNED: Final = struct.Struct(">HHQ")  # version numbers closed_ms
_VERSION: Final = 1
_LONGEST_NAME: Final = 2048


class KeeperState(IntEnum):
    """The secret opens the epoch's key; it was seen and is being destroyed; its provider gave a receipt."""

    HOLDS = 1
    ENDING = 2
    ENDED = 3


@dataclass(frozen=True, slots=True)
class Keeper:
    """One secret that wrapped an epoch's key: epoch, id (16 bytes, of the secret itself), kind of provider, a name for
    people, and, once destroyed, when its receipt came and from when on nobody can restore it (ms since 1970 UTC)."""

    epoch: int
    id: bytes
    kind: str
    name: str
    state: KeeperState = KeeperState.HOLDS
    receipt_ms: int = 0
    effective_ms: int = 0

    @classmethod
    def of(cls, epoch: int, kind: str, held: Holding | None) -> Keeper:
        """Return the keeper for the secret that a provider holds. Raises IntegrityError for None."""
        if held is None:
            raise IntegrityError(f"the {kind} provider has no secret for epoch {epoch}, which it has just used")
        return cls(epoch, held.id, kind, held.name)

    @property
    def row_key(self) -> bytes:
        """The key of its keyring row."""
        return rows.KEEPER_PREFIX + self.epoch.to_bytes(4, "big") + self.id

    @property
    def is_ended(self) -> bool:
        """Whether its provider has given a receipt."""
        return self.state is KeeperState.ENDED

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    def encode(self) -> bytes:
        """Return 58 bytes and the name, UTF-8."""
        name = self.name.encode()
        kind = self.kind.encode("ascii")
        if len(kind) > 16 or len(name) > _LONGEST_NAME or len(self.id) != 16:
            raise FormatError("a provider's kind or the name of its secret is too long")
        clear = (_VERSION, self.state, self.epoch, self.id, kind, self.receipt_ms, self.effective_ms, len(name))
        return LAYOUT.pack(*clear) + name

    @classmethod
    def decode(cls, data: bytes) -> Keeper:
        """Return the keeper. Raises FormatError for whatever FORMAT.md says a reader must reject."""
        wrong = FormatError("a keeper row of the keyring has values that this version never writes")
        if len(data) < LAYOUT.size or data[3]:
            raise wrong
        version, state, epoch, number, kind, receipt_ms, effective_ms, length = LAYOUT.unpack_from(data)
        if version != _VERSION or length != len(data) - LAYOUT.size or (state == KeeperState.ENDED) != (receipt_ms > 0):
            raise wrong
        try:
            name, text = data[LAYOUT.size :].decode(), kind.rstrip(b"\0").decode("ascii")
            return cls(epoch, number, text, name, KeeperState(state), receipt_ms, effective_ms)
        except ValueError:
            raise wrong from None


@dataclass(frozen=True, slots=True)
class Burned:
    """The shares of a group that an officer reported as burned (bit 0 is share 1), and when too few were left to give
    the key (ms since 1970 UTC; 0 while enough are left)."""

    numbers: int = 0
    closed_ms: int = 0

    def encode(self) -> bytes:
        """Return the 12 bytes."""
        return BURNED.pack(_VERSION, self.numbers, self.closed_ms)

    @classmethod
    def decode(cls, data: bytes) -> Burned:
        """Return the value. Raises FormatError for another length or version."""
        if len(data) != BURNED.size or data[:2] != _VERSION.to_bytes(2, "big"):
            raise FormatError("a row of burned shares of the keyring has values that this version never writes")
        _, numbers, closed_ms = BURNED.unpack(data)
        return cls(numbers, closed_ms)

    def left(self, of: Group) -> int:
        """Return how many shares of the group may still exist."""
        return of.count - self.numbers.bit_count()

    def add(self, of: Group, numbers: Iterable[int], now_ms: int) -> Burned:
        """Return a copy with these shares, counted from 1, burned too."""
        more = replace(self, numbers=self.numbers | sum(1 << number - 1 for number in {*numbers}))
        is_new = not self.closed_ms and more.left(of) < of.threshold
        return replace(more, closed_ms=now_ms) if is_new else more


def keepers_in(store: KeyringStore, epoch: int | None = None) -> list[Keeper]:
    """Return the keepers of an epoch, or all, by epoch and id. Raises FormatError, IntegrityError."""
    below = b"" if epoch is None else epoch.to_bytes(4, "big")
    found = []
    for key, value in scan(store, rows.KEEPER_PREFIX + below):
        keeper = Keeper.decode(value)
        if keeper.row_key != key:
            raise IntegrityError("a keeper row of the keyring is stored under another keeper's key")
        found.append(keeper)
    return found


def require_keeper(row: EpochRow, found: Iterable[Keeper]) -> None:
    """Raise IntegrityError unless the epoch has a keeper of the kind that wraps its key now."""
    if not any(each.kind == row.provider for each in found):
        raise IntegrityError(
            f"the keyring does not say which secret of its {row.provider} provider opens epoch {row.epoch}",
            hint="a row was removed: restore the keyring from its backup",
        )


def burned_row_key(of: Group) -> bytes:
    """Return the key of the row that holds a group's burned shares."""
    return rows.BURNED_PREFIX + of.group


def groups_in(store: KeyringStore) -> list[Group]:
    """Return the groups of shares ever made, oldest first."""
    found = (Group.decode(value) for _, value in scan(store, rows.SHARES_PREFIX))
    return sorted(found, key=lambda of: (of.made_s, of.group))


def burned_in(store: KeyringStore) -> dict[bytes, Burned]:
    """Return the burned shares by group; a group without any is absent."""
    return {key[1:]: Burned.decode(value) for key, value in scan(store, rows.BURNED_PREFIX)}
