"""Destroy an old epoch: every secret that ever opened its key gives a receipt, or the epoch is abandoned.

Rule: the keyring records the destruction first: from then on no process asks for that secret. Only a provider that was
seen to hold exactly this secret, and has destroyed it, gives a receipt; one that holds another secret, or none, proves
nothing about it. An epoch is destroyed when all of its keepers have a receipt; one whose provider was lost is
abandoned, and what was erased under it does not count as gone. The caller holds the keyring's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from coffer.keys.errors import CofferError, ConfigError, KeyUnavailableError, LockedError, NotFoundError
from coffer.keys.keyring import rows
from coffer.keys.keyring.keepers import Keeper, KeeperState, keepers_in, require_keeper
from coffer.keys.keyring.overview import keys_under
from coffer.keys.keyring.rows import EpochRow, KeyringHeader, KeyRow
from coffer.keys.providers.base import DestroyReceipt, KekProvider
from coffer.keys.store.keyring_store import KeyringStore, Row
from coffer.keys.store.writes import SOMETHING_ELSE
from coffer.keys.values.epoch import Epoch, EpochState
from coffer.keys.values.waiting_event import WaitingEvent

__all__ = ["EpochDestruction", "KeeperFailure", "Receipt", "abandon", "destroy"]

_ENDED: Final = frozenset({EpochState.DESTROYED, EpochState.ABANDONED})
_NONE_LEFT: Final = "it held no such secret when it was asked again after an interruption"


@dataclass(frozen=True, slots=True)
class Receipt:
    """A keeper whose secret was destroyed, and its provider's caveat: what is left to destroy elsewhere."""

    keeper: Keeper
    caveat: str


@dataclass(frozen=True, slots=True)
class KeeperFailure:
    """A keeper whose provider failed to destroy its secret, and why."""

    keeper: Keeper
    cause: CofferError


@dataclass(frozen=True, slots=True)
class EpochDestruction:
    """An epoch, its state, the new receipts, the keepers still without one, and the keepers with an earlier receipt
    whose provider could not be asked whether the secret has returned."""

    epoch: int
    state: EpochState
    receipts: tuple[Receipt, ...]
    missing: tuple[KeeperFailure, ...]
    unasked: tuple[KeeperFailure, ...]

    def require(self) -> EpochDestruction:
        """Return this, or raise the first failure's cause where there are failures and no new receipt."""
        failed = (*self.missing, *self.unasked)
        if failed and not self.receipts:
            raise failed[0].cause
        return self


def destroy(
    store: KeyringStore,
    provider: KekProvider,
    epoch: int,
    now_ms: Callable[[], int],
    event: Callable[[Receipt], WaitingEvent] | None = None,
) -> EpochDestruction:
    """Destroy every secret that ever opened an old epoch's key; each receipt is durable before the next is requested.

    After an interruption anywhere the archive still opens, and the next call resumes. What `event` makes of a
    receipt is written with it, once; also for an abandoned epoch whose provider is back. A secret that returned after
    its receipt is destroyed again, without a new receipt. Raises NotFoundError for an epoch that never existed,
    ConfigError for the current one or one that still wraps keys, LockedError where its rows changed meanwhile. Errors
    of providers are part of the result. Shares give no receipts here: see `keys.keyring.keepers.Burned`.
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
            continue  # otherwise a key service scheduled another deletion, and can revoke it until a later date
        now = now_ms()
        ended = replace(keeper, state=KeeperState.ENDED, receipt_ms=now, effective_ms=said.effective_ms or now)
        receipt = Receipt(ended, said.caveat)
        row = _receive(store, row, receipt, [] if event is None else [event(receipt)])
        receipts.append(receipt)
    return EpochDestruction(epoch, row.state, tuple(receipts), tuple(missing), tuple(unasked))


def _end(store: KeyringStore, provider: KekProvider, keeper: Keeper) -> DestroyReceipt:
    """Destroy exactly this keeper's secret at its provider. Raises KeyUnavailableError if that holds another, or
    none."""
    configured = provider.of_kind(keeper.kind)
    held = configured.holding(keeper.epoch, keeper.name)
    if held is not None and held.id == keeper.id:
        if keeper.state is KeeperState.HOLDS:
            ending = replace(keeper, state=KeeperState.ENDING)
            if not store.put([(keeper.row_key, ending.encode())], expected=[(keeper.row_key, keeper.encode())]):
                raise LockedError("another process changes the keys", hint="run the command again")
        return configured.destroy_epoch(keeper.epoch)
    if keeper.is_ended or (keeper.state is KeeperState.ENDING and held is None):
        return DestroyReceipt(keeper.kind, keeper.epoch, _NONE_LEFT)
    has = "no secret" if held is None else "another secret"
    raise KeyUnavailableError(
        f"the {keeper.kind} provider that is configured has {has} for epoch {keeper.epoch}, so it cannot say that the"
        f" one that opens it is destroyed: {keeper.name}",
        hint=f"if it is elsewhere: coffer keys destroy {keeper.epoch} --keys-of FILE, a configuration that leads to it",
    )


def _receive(store: KeyringStore, row: EpochRow, receipt: Receipt, events: list[WaitingEvent]) -> EpochRow:
    """Store a receipt; the last one marks the epoch as destroyed. Returns the epoch's new row."""
    keeper = receipt.keeper
    others = [each for each in keepers_in(store, keeper.epoch) if each.id != keeper.id]
    now = row if not all(each.is_ended for each in others) else replace(row, state=EpochState.DESTROYED, wrapped=b"")
    put = [
        (keeper.row_key, keeper.encode()),
        (rows.epoch_row_key(row.epoch), now.encode()),
        *(each.row for each in events),
    ]
    _put(store, put, row)
    return now


def abandon(store: KeyringStore, epoch: int, event: Callable[[Epoch], WaitingEvent]) -> Epoch:
    """Abandon an old epoch without its provider: its wrapped KEK leaves the keyring, durable on return.

    What `event` makes is written with it, once. Its keepers stay without a receipt, and what was shredded under
    the epoch does not count as gone until `destroy` gets a receipt from each. Returns the epoch; raises as
    `destroy`. Calls no provider.
    """
    row = _announce(store, epoch)
    if row.state in _ENDED:
        return row.facts
    given_up = replace(row, state=EpochState.ABANDONED, wrapped=b"")
    _put(store, [(rows.epoch_row_key(epoch), given_up.encode()), event(given_up.facts).row], row)
    return given_up.facts


def _announce(store: KeyringStore, epoch: int) -> EpochRow:
    """Record that the epoch is being destroyed, for every process to see. Returns its row."""
    row_key = rows.epoch_row_key(epoch)
    value = store.get(row_key)
    if value is None:
        raise NotFoundError(f"this archive has no key epoch {epoch}")
    row = EpochRow.decode(value)
    require_keeper(row, keepers_in(store, epoch))
    if epoch >= KeyringHeader.decode(store.get(rows.HEADER_KEY) or b"").epoch or row.state is EpochState.ACTIVE:
        raise ConfigError(f"epoch {epoch} is in use", hint="rotate first: coffer keys rotate")
    own = [value for row_key in rows.OWN_KEYS if (value := store.get(row_key)) is not None]
    if not own or any(KeyRow.decode(value).epoch == epoch for value in own):  # a rotation moves these before all others
        raise ConfigError(f"a key of the archive's own is still under epoch {epoch}", hint="rotate: coffer keys rotate")
    if held := keys_under(store, epoch):
        raise ConfigError(
            f"{held} study keys are still under epoch {epoch}",
            hint="rotate; keys shredded a moment ago leave it without further action while a server runs",
        )
    if row.state is not EpochState.RETIRED:
        return row
    going = replace(row, state=EpochState.DESTROYING)
    _put(store, [(row_key, going.encode())], row, gone=[SOMETHING_ELSE])
    return going


def _put(store: KeyringStore, put: list[Row], was: EpochRow, gone: Sequence[bytes] = ()) -> None:
    """Write rows if the epoch's row is unchanged. Raises LockedError otherwise."""
    if not store.put(put, expected=[(rows.epoch_row_key(was.epoch), was.encode())], gone=gone):
        raise LockedError("another process changes the keys", hint="run the command again")
