"""What could ever open an epoch's key: its keepers, each a secret of a provider that wrapped it, and groups of shares.

Rule: the keyring knows a keeper before it, or a share, is of any use to anybody, and keeps it for good. It leaves
nothing out when an epoch moves to another provider: older copies of the keyring still name the one before. A keeper
counts until there is a receipt for this very secret, not for another one of the same kind. Layout: FORMAT.md.
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
from coffer.keys.keyring.store import RowStore
from coffer.keys.providers.base import Holding

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
    """It opens the epoch's key; it was seen and is being destroyed; its provider gave a receipt."""

    HOLDS = 1
    ENDING = 2
    ENDED = 3


@dataclass(frozen=True, slots=True)
class Keeper:
    """One secret that wrapped an epoch's key: epoch, id (16 bytes, of the secret itself), kind of provider, a name by
    which people find it, and, where it has ended, when its receipt came and from when on nobody brings it back (ms
    since 1970 UTC)."""

    epoch: int
    id: bytes
    kind: str
    name: str
    state: KeeperState = KeeperState.HOLDS
    receipt_ms: int = 0
    effective_ms: int = 0

    @classmethod
    def of(cls, epoch: int, kind: str, held: Holding | None) -> Keeper:
        """The keeper that a provider holds. Raises IntegrityError for none."""
        if held is None:
            raise IntegrityError(f"the {kind} provider has no secret for epoch {epoch}, which it has just used")
        return cls(epoch, held.id, kind, held.name)

    @property
    def row_key(self) -> bytes:
        """The key of its row."""
        return rows.KEEPER_PREFIX + self.epoch.to_bytes(4, "big") + self.id

    @property
    def is_ended(self) -> bool:
        """Whether its provider gave a receipt."""
        return self.state is KeeperState.ENDED

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    def encode(self) -> bytes:
        """Return 58 bytes and the name, UTF-8."""
        name = self.name.encode()
        kind = self.kind.encode("ascii")
        if len(kind) > 16 or len(name) > _LONGEST_NAME or len(self.id) != 16:
            raise FormatError("a provider names its kind or its secret at too great length")
        clear = (_VERSION, self.state, self.epoch, self.id, kind, self.receipt_ms, self.effective_ms, len(name))
        return LAYOUT.pack(*clear) + name

    @classmethod
    def decode(cls, data: bytes) -> Keeper:
        """Return the keeper. Raises FormatError for what FORMAT.md says must be rejected."""
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
    """Which shares of a group an officer said were burned (bit 0 is share 1), and when they became too many for those
    that are left to give the key (ms since 1970 UTC), 0 while they were not."""

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
        """How many shares of the group there may still be."""
        return of.count - self.numbers.bit_count()

    def add(self, of: Group, numbers: Iterable[int], now_ms: int) -> Burned:
        """The same with these shares, counted from 1, burned as well."""
        more = replace(self, numbers=self.numbers | sum(1 << number - 1 for number in {*numbers}))
        is_new = not self.closed_ms and more.left(of) < of.threshold
        return replace(more, closed_ms=now_ms) if is_new else more


def keepers_in(store: RowStore, epoch: int | None = None) -> list[Keeper]:
    """Return the keepers of an epoch, or all, by epoch and id. Raises FormatError, IntegrityError."""
    below = b"" if epoch is None else epoch.to_bytes(4, "big")
    found = []
    for key, value in store.scan(rows.KEEPER_PREFIX + below):
        keeper = Keeper.decode(value)
        if keeper.row_key != key:
            raise IntegrityError("a keeper row of the keyring stands under another one's key")
        found.append(keeper)
    return found


def require_keeper(row: EpochRow, found: Iterable[Keeper]) -> None:
    """Raise IntegrityError where what wraps the epoch's key now is not among its keepers."""
    if not any(each.kind == row.provider for each in found):
        raise IntegrityError(
            f"the keyring does not say which secret of its {row.provider} provider opens epoch {row.epoch}",
            hint="a row was taken out: restore the keyring from its backup",
        )


def burned_row_key(of: Group) -> bytes:
    """The key of the row that says which shares of a group are burned."""
    return rows.BURNED_PREFIX + of.group


def groups_in(store: RowStore) -> list[Group]:
    """Return the groups of shares that were made, oldest first."""
    found = (Group.decode(value) for _, value in store.scan(rows.SHARES_PREFIX))
    return sorted(found, key=lambda of: (of.made_s, of.group))


def burned_in(store: RowStore) -> dict[bytes, Burned]:
    """Return by group which shares are burned; groups of which none is are left out."""
    return {key[1:]: Burned.decode(value) for key, value in store.scan(rows.BURNED_PREFIX)}
