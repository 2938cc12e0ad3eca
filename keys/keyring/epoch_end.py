"""The end of an old epoch: everything that ever opened its key gives a receipt, or a provider is lost and cannot.

Rule: the keyring is told first: from then on no process asks for that secret. Only a provider that was seen with the
very secret, and has destroyed it, gives a receipt; one that has another secret, or none, says nothing about it. An
epoch is destroyed when all of its keepers have given theirs; one whose provider was lost is abandoned, and what was
erased under it is not called gone. Whoever calls holds the keyring's `ChangeLock`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from coffer.keys.errors import CofferError, ConfigError, KeyUnavailableError, LockedError, NotFoundError
from coffer.keys.keyring import rows
from coffer.keys.keyring.keepers import Keeper, KeeperState, keepers_in, require_keeper
from coffer.keys.keyring.rows import EpochRow, EpochState, KeyringHeader, KeyRow
from coffer.keys.keyring.store import RowStore
from coffer.keys.providers.base import DestroyReceipt, KekProvider

__all__ = ["EpochDestruction", "KeeperFailure", "Receipt", "abandon", "destroy"]

_ENDED: Final = frozenset({EpochState.DESTROYED, EpochState.ABANDONED})
_NONE_LEFT: Final = "it held no such secret when it was asked again after a stop"


@dataclass(frozen=True, slots=True)
class Receipt:
    """A keeper that has ended, and what its provider said: what is left to do elsewhere."""

    keeper: Keeper
    caveat: str


@dataclass(frozen=True, slots=True)
class KeeperFailure:
    """A keeper whose provider did not do what it was asked, and why."""

    keeper: Keeper
    cause: CofferError


@dataclass(frozen=True, slots=True)
class EpochDestruction:
    """An epoch, its state, the receipts that came now, what has given none, and what gave one before and could not be
    asked whether its secret is back."""

    epoch: int
    state: EpochState
    receipts: tuple[Receipt, ...]
    missing: tuple[KeeperFailure, ...]
    unasked: tuple[KeeperFailure, ...]

    def require(self) -> EpochDestruction:
        """Return this where any provider did what it was asked. Raises why the first one did not."""
        failed = (*self.missing, *self.unasked)
        if failed and not self.receipts:
            raise failed[0].cause
        return self


def destroy(
    store: RowStore,
    provider: KekProvider,
    epoch: int,
    now_ms: Callable[[], int],
    event: Callable[[Receipt], tuple[bytes, bytes]] | None = None,
) -> EpochDestruction:
    """Destroy all that ever opened an old epoch's key, each receipt durable before the next is asked for.

    Stopped anywhere, the archive opens, and the next call goes on. The row that `event` makes of a receipt is written
    with it, once; also for an epoch that was abandoned, when its provider is back. A secret that came back after its
    receipt is destroyed again, and gives none. Raises NotFoundError for an epoch that never was, ConfigError for the
    current one or one that still holds keys, LockedError where its rows changed meanwhile. What a provider raises
    stands in the answer. A share gives no receipt here: `keys.keyring.keepers.Burned`.
    """
    row = _announce(store, epoch)
    receipts: list[Receipt] = []
    missing: list[KeeperFailure] = []
    unasked: list[KeeperFailure] = []
    for keeper in keepers_in(store, epoch):
        try:
            said = _end(store, provider, keeper)
        except LockedError:
            raise
        except CofferError as error:
            (unasked if keeper.is_ended else missing).append(KeeperFailure(keeper, error))
            continue
        if keeper.is_ended and (said.effective_ms or 0) <= keeper.effective_ms:
            continue  # else a key service was told to delete it once more, and can bring it back until another day
        now = now_ms()
        ended = replace(keeper, state=KeeperState.ENDED, receipt_ms=now, effective_ms=said.effective_ms or now)
        receipt = Receipt(ended, said.caveat)
        row = _receive(store, row, receipt, [] if event is None else [event(receipt)])
        receipts.append(receipt)
    return EpochDestruction(epoch, row.state, tuple(receipts), tuple(missing), tuple(unasked))


def _end(store: RowStore, provider: KekProvider, keeper: Keeper) -> DestroyReceipt:
    """Let the provider destroy the keeper's very secret. Raises KeyUnavailableError where it has another, or none."""
    asked = provider.of_kind(keeper.kind)
    held = asked.holding(keeper.epoch, keeper.name)
    if held is not None and held.id == keeper.id:
        if keeper.state is KeeperState.HOLDS:
            ending = replace(keeper, state=KeeperState.ENDING)
            if not store.put([(keeper.row_key, ending.encode())], expected=[(keeper.row_key, keeper.encode())]):
                raise LockedError("another process changes the keys", hint="say it again")
        return asked.destroy_epoch(keeper.epoch)
    if keeper.is_ended or (keeper.state is KeeperState.ENDING and held is None):
        return DestroyReceipt(keeper.kind, keeper.epoch, _NONE_LEFT)
    has = "no secret" if held is None else "another secret"
    raise KeyUnavailableError(
        f"the {keeper.kind} provider that is configured has {has} for epoch {keeper.epoch}, so it cannot say that the"
        f" one that opens it is destroyed: {keeper.name}",
        hint=f"where that one is: coffer keys destroy {keeper.epoch} --keys-of FILE, a configuration that names it",
    )


def _receive(store: RowStore, row: EpochRow, receipt: Receipt, events: list[tuple[bytes, bytes]]) -> EpochRow:
    """Keep a receipt; with the last one the epoch is destroyed. Returns its row as it then is."""
    keeper = receipt.keeper
    others = [each for each in keepers_in(store, keeper.epoch) if each.id != keeper.id]
    now = row if not all(each.is_ended for each in others) else replace(row, state=EpochState.DESTROYED, wrapped=b"")
    put = [(keeper.row_key, keeper.encode()), (rows.epoch_row_key(row.epoch), now.encode()), *events]
    _put(store, put, row)
    return now


def abandon(store: RowStore, epoch: int, event: Callable[[EpochRow], tuple[bytes, bytes]]) -> EpochRow:
    """Give an old epoch up without its provider: its wrapped KEK leaves the keyring, durable on return.

    The row that `event` makes is written with it, once. Its keepers stay without a receipt, and what was shredded under
    the epoch stays as it is until `destroy` gets one of each. Returns the epoch's row; raises as `destroy`, and asks
    nobody.
    """
    row = _announce(store, epoch)
    if row.state in _ENDED:
        return row
    given_up = replace(row, state=EpochState.ABANDONED, wrapped=b"")
    _put(store, [(rows.epoch_row_key(epoch), given_up.encode()), event(given_up)], row)
    return given_up


def _announce(store: RowStore, epoch: int) -> EpochRow:
    """Tell every process that the epoch is going, and return its row as it then is."""
    row_key = rows.epoch_row_key(epoch)
    value = store.get(row_key)
    if value is None:
        raise NotFoundError(f"this archive has no key epoch {epoch}")
    row = EpochRow.decode(value)
    require_keeper(row, keepers_in(store, epoch))
    if epoch >= KeyringHeader.decode(store.get(rows.HEADER_KEY) or b"").epoch or row.state is EpochState.ACTIVE:
        raise ConfigError(f"epoch {epoch} is in use", hint="rotate first: coffer keys rotate")
    own = [value for row_key in rows.OWN_KEYS if (value := store.get(row_key)) is not None]
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
    put = [(row_key, going.encode()), rows.incremented(changes)]
    _put(store, put, row, (rows.CHANGES_KEY, changes))
    return going


def _put(store: RowStore, put: list[tuple[bytes, bytes]], was: EpochRow, *more: tuple[bytes, bytes | None]) -> None:
    """Write, where the epoch's row is as it was. Raises LockedError where it is not."""
    if not store.put(put, expected=[(rows.epoch_row_key(was.epoch), was.encode()), *more]):
        raise LockedError("another process changes the keys", hint="say it again")
