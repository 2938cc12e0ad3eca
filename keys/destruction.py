"""The end of an old epoch: its provider destroys the secret for ever, or is lost and cannot.

Rule: the keyring is told first: from then on no process asks for that secret. Only a provider's receipt makes a
destruction; an epoch whose provider was lost is abandoned, and what was erased under it is not called gone. Whoever
calls holds the keyring's `ChangeLock`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from keys import rows
from keys.errors import ConfigError, FormatError, LockedError, NotFoundError
from keys.provider import DestroyReceipt, KekProvider
from keys.rows import EpochRow, EpochState, Header, KeyRow
from keys.store import RowStore

__all__ = ["Destruction", "abandon", "destroy"]

_LAYOUT: Final = struct.Struct(">QQ")  # receipt_ms effective_ms
_ENDED: Final = frozenset({EpochState.DESTROYED, EpochState.ABANDONED})


@dataclass(frozen=True, slots=True)
class Destruction:
    """When an epoch's provider gave its receipt, and from when on nobody can bring the secret back; ms since 1970."""

    receipt_ms: int
    effective_ms: int

    def encode(self) -> bytes:
        """Return the 16 bytes."""
        return _LAYOUT.pack(self.receipt_ms, self.effective_ms)

    @classmethod
    def decode(cls, data: bytes) -> Destruction:
        """Return the value. Raises FormatError for any other length."""
        if len(data) != _LAYOUT.size:
            raise FormatError("a destruction row of the keyring has the wrong length")
        return cls(*_LAYOUT.unpack(data))


def destroy(
    store: RowStore,
    provider: KekProvider,
    epoch: int,
    now_ms: Callable[[], int],
    event: Callable[[DestroyReceipt, Destruction], tuple[bytes, bytes]] | None = None,
) -> DestroyReceipt:
    """Destroy an old epoch's secret for ever, durable on return; repeated, it gives the receipt again.

    A stop before the provider has destroyed it leaves an archive that opens. The row that `event` makes of receipt and
    times is written with the receipt, once; also for an epoch that was abandoned, when its provider is back. Raises
    NotFoundError for an epoch that never was, ConfigError for the current one or one that still holds keys, LockedError
    where its row changed meanwhile, and what the provider raises.
    """
    row = _told(store, epoch)
    place = rows.epoch_place(epoch)
    receipt = provider.of_kind(row.provider).destroy_epoch(epoch)
    if row.state is EpochState.DESTROYED:
        return receipt
    now = now_ms()
    done = Destruction(now, receipt.effective_ms or now)
    put = [
        (place, replace(row, state=EpochState.DESTROYED, wrapped=b"").encode()),
        (rows.DESTRUCTION_PREFIX + place[1:], done.encode()),
        *([] if event is None else [event(receipt, done)]),
    ]
    _put(store, put, row)
    return receipt


def abandon(store: RowStore, epoch: int, event: Callable[[EpochRow], tuple[bytes, bytes]]) -> EpochRow:
    """Give an old epoch up without its provider: its wrapped KEK leaves the keyring, durable on return.

    The row that `event` makes is written with it, once. No `Destruction` is: what was shredded under the epoch stays
    as it is until `destroy` gets a receipt. Returns the epoch's row; raises as `destroy`, asks no provider.
    """
    row = _told(store, epoch)
    if row.state in _ENDED:
        return row
    given_up = replace(row, state=EpochState.ABANDONED, wrapped=b"")
    _put(store, [(rows.epoch_place(epoch), given_up.encode()), event(given_up)], row)
    return given_up


def _told(store: RowStore, epoch: int) -> EpochRow:
    """Tell every process that the epoch is going, and return its row as it then is."""
    place = rows.epoch_place(epoch)
    value = store.get(place)
    if value is None:
        raise NotFoundError(f"this archive has no key epoch {epoch}")
    row = EpochRow.decode(value)
    if epoch >= Header.decode(store.get(rows.HEADER_KEY) or b"").epoch or row.state is EpochState.ACTIVE:
        raise ConfigError(f"epoch {epoch} is in use", hint="rotate first: coffer keys rotate")
    own = [value for place in rows.OWN_KEYS if (value := store.get(place)) is not None]
    if not own or any(KeyRow.decode(value).epoch == epoch for value in own):  # a rotation moves them before all others
        raise ConfigError(f"a key of the archive's own is still under epoch {epoch}", hint="rotate: coffer keys rotate")
    held: list[int] = []
    store.walk(rows.STUDY_PREFIX, lambda _, key: held.append(1) if KeyRow.decode(key).epoch == epoch else None)
    if held:
        raise ConfigError(
            f"{len(held)} study keys are still under epoch {epoch}",
            hint="rotate; keys that were shredded a moment ago leave it by themselves while a server runs",
        )
    if row.state is not EpochState.RETIRED:
        return row
    going = replace(row, state=EpochState.DESTROYING)
    changes = store.get(rows.CHANGES_KEY)
    put = [(place, going.encode()), rows.raised(changes)]
    _put(store, put, row, (rows.CHANGES_KEY, changes))
    return going


def _put(store: RowStore, put: list[tuple[bytes, bytes]], was: EpochRow, *more: tuple[bytes, bytes | None]) -> None:
    """Write, where the epoch's row is as it was. Raises LockedError where it is not."""
    if not store.put(put, expected=[(rows.epoch_place(was.epoch), was.encode()), *more]):
        raise LockedError("another process changes the keys", hint="say it again")
