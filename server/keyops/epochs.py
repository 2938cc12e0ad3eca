"""New key epochs and the end of old ones, with a record of each in the log; by command, or when an epoch is old enough.

Rule: the event of a change is written into the keyring with the change's last step, and waits there for the writer of
the log (`server.mailbox.outbox`): a stop loses neither. The caller holds the keyring's lock from its first read to its
last step; no key moves to a provider that the running server does not know.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Final

from coffer.archive.events.epochs import EpochAbandoned, EpochDestroyed, EpochRotated
from coffer.archive.events.event import Event
from coffer.archive.events.recorded import Occurrence
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.writer_lock import writer
from coffer.keys.clock import clock_ms
from coffer.keys.errors import ConfigError
from coffer.keys.keyring.epoch_end import EpochDestruction, KeeperFailure, Receipt
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.rotation import Rotated
from coffer.keys.providers.base import KekProvider
from coffer.keys.values.epoch import Epoch, EpochState
from coffer.keys.values.waiting_event import WaitingEvent
from coffer.server.access.action import Action
from coffer.server.access.decision import policy_of
from coffer.server.access.principal import Principal
from coffer.server.clock.trust import granting_ms, trust
from coffer.server.config.settings import Config, Keys
from coffer.server.engine.erasure_state import shares
from coffer.server.engine.providers import KINDS, provider_of, settings_of
from coffer.server.keyops.key_change import changing_keys
from coffer.server.mailbox import outbox
from coffer.server.observe.logs import get_logger

__all__ = ["NO_RECEIPT_IN_DOUBT", "EndedEpoch", "EpochAdmin", "destroy", "rotate"]

_log = get_logger()

_DAY_SECONDS: Final = 86_400
_NOT_DESTROYED: Final = (
    "a provider was lost and has destroyed nothing: what was shredded under this epoch is not erased for good. When it"
    " is back, coffer keys destroy EPOCH again"
)
NO_RECEIPT_IN_DOUBT: Final = "no epoch is destroyed: the times of its receipts would be those of a clock in doubt"
_DESTROYED_BEFORE: Final = "it was destroyed before, and every receipt is present"


@dataclass(frozen=True, slots=True)
class EndedEpoch:
    """An ended epoch: its state, the receipts of this call, the keepers that gave none, a remark, the time (ms since
    1970 UTC) from which no secret can be restored, if it is destroyed, and the shares that still open it, in words."""

    epoch: int
    provider: str
    state: EpochState
    receipts: tuple[Receipt, ...] = ()
    missing: tuple[KeeperFailure, ...] = ()
    remark: str = ""
    effective_ms: int | None = None
    shares: tuple[str, ...] = ()

    @property
    def is_destroyed(self) -> bool:
        """Whether everything that its providers held for it is destroyed."""
        return self.state is EpochState.DESTROYED


def rotate(config: Config, progress: Callable[[int, int], None], by: Principal, provider: str = "") -> Rotated:
    """Rotate the keys of an archive, also beside a running server; durable and signed on return. Raises as
    `EpochAdmin.rotate` and `changing_keys`.

    With `provider` (its configured name) every key is under an epoch of that provider on return: an interrupted
    rotation to another provider is finished first.
    """
    policy_of(config).require(by, Action.ROTATE)
    current = provider_of(config.keys, ArchiveFolder.open(config.archive).archive_id, provider)
    with changing_keys(config, current) as archive:
        epochs = EpochAdmin(archive.folder, archive.keyring, config.keys, by, "coffer keys rotate")
        with epochs.exclusive():
            done = epochs.rotate(progress)
            if provider and done.provider != KINDS[provider]:
                done = replace(epochs.rotate(progress), resumed=True)
        return done


def destroy(config: Config, epoch: int, by: Principal, lost: str = "", keys_of: Keys | None = None) -> EndedEpoch:
    """Destroy an old epoch, also beside a running server; durable and signed on return. Raises as `EpochAdmin.destroy`
    and `changing_keys`.

    With `lost`, the reason why a provider is lost for ever, an epoch with a failing provider is abandoned instead. With
    `keys_of`, these settings name the providers to ask, other than those that open the archive now.
    """
    policy_of(config).require(by, Action.DESTROY_EPOCH)
    with changing_keys(config) as archive:
        epochs = EpochAdmin(archive.folder, archive.keyring, config.keys, by, "coffer keys destroy")
        with epochs.exclusive():
            others = None if keys_of is None else provider_of(keys_of, archive.folder.archive_id)
            return epochs.destroy_or_abandon(epoch, lost, others) if lost else epochs.destroy(epoch, others)


class EpochAdmin:
    """The epochs of an open keyring. Events name `by`; a process that finds the keys locked is shown `command`."""

    def __init__(self, folder: ArchiveFolder, keyring: Keyring, keys: Keys, by: Principal, command: str) -> None:
        self._folder = folder
        self._keyring = keyring
        self._keys = keys
        self._by = by
        self._command = command

    def exclusive(self) -> AbstractContextManager[None]:
        """See `Keyring.exclusive`."""
        return self._keyring.exclusive(self._command)

    def rotate(self, progress: Callable[[int, int], None] = lambda _done, _total: None) -> Rotated:
        """Rotate, or finish an interrupted rotation; durable on return.

        Raises the same errors as `keys.keyring.rotation.rotate`, and ConfigError if the running server does not know
        the provider with the settings of this process.
        """
        with self.exclusive():
            self._require_known()
            return self._keyring.rotate(progress, self._rotated)

    def resume(self, progress: Callable[[int, int], None]) -> bool:
        """Finish an interrupted rotation if there is one and no other process is at it; returns whether it did."""
        if not self._keyring.partly_rotated() or self._keyring.change_holder() is not None:
            return False
        with self.exclusive():
            if not self._keyring.partly_rotated():
                return False
            done = self.rotate(progress)
        _log.info(
            "an interrupted rotation was finished", name="rotation.finished", epoch=done.epoch, moved=done.rewrapped
        )
        return True

    def rotate_if_old(
        self, progress: Callable[[int, int], None] = lambda _done, _total: None, now_ms: Callable[[], int] | None = None
    ) -> bool:
        """Rotate if the current epoch is older than `[keys] rotate_days` (0: never), by a clock that may be trusted.
        Returns whether it did."""
        if not self._is_old(now_ms):
            return False
        with self.exclusive():
            if not self._is_old(now_ms):
                return False
            done = self.rotate(progress)
        _log.info("the keys were rotated", name="epoch.rotated", epoch=done.epoch, moved=done.rewrapped)
        return True

    def destroy(self, epoch: int, others: KekProvider | None = None) -> EndedEpoch:
        """Like `end`, at its providers or at `others`, but raises the cause if no provider did what it was asked."""
        return self._ended(self._end(epoch, others).require())

    def end(self, epoch: int) -> EndedEpoch:
        """Destroy everything that ever opened an old epoch; durable on return. The result lists what gave no receipt.

        Raises the same errors as `keys.keyring.epoch_end.destroy`.
        """
        return self._ended(self._end(epoch, None))

    def _end(self, epoch: int, others: KekProvider | None) -> EpochDestruction:
        trust(self._keyring).require(NO_RECEIPT_IN_DOUBT)
        with self.exclusive():
            return self._keyring.destroy_epoch(epoch, self._destroyed, others)

    def destroy_or_abandon(self, epoch: int, reason: str, others: KekProvider | None = None) -> EndedEpoch:
        """Like `destroy`, but abandon the epoch if a provider gives no receipt.

        Raises the same errors as `keys.keyring.epoch_end.abandon`.
        """
        with self.exclusive():
            ending = self._end(epoch, others)
            if ending.missing:
                cause = str(ending.missing[0].cause)
                self._keyring.abandon_epoch(epoch, lambda given_up: self._abandoned(given_up, reason, cause))
        return self._ended(ending)

    def _ended(self, ending: EpochDestruction) -> EndedEpoch:
        """Return the state of the epoch now."""
        info = next(each for each in self._keyring.epochs() if each.epoch == ending.epoch)
        remark = _NOT_DESTROYED if info.state is EpochState.ABANDONED else ""
        if info.state is EpochState.DESTROYED and not ending.receipts:
            remark = _DESTROYED_BEFORE
            if ending.unasked:
                remark += f"; whether a secret is back could not be checked: {ending.unasked[0].cause}"
        left = shares(self._keyring, ending.epoch)
        return EndedEpoch(
            ending.epoch, info.provider, info.state, ending.receipts, ending.missing, remark, info.gone_ms, left
        )

    def _is_old(self, now_ms: Callable[[], int] | None) -> bool:
        days = self._keys.rotate_days
        if days <= 0:
            return False
        now = now_ms() if now_ms else granting_ms(self._keyring)
        return self._keyring.epoch_age_seconds(now) >= days * _DAY_SECONDS

    def _require_known(self) -> None:
        """Raise ConfigError if keys would move to a provider that the writer does not know."""
        keyring = self._keyring
        kind = keyring.epoch_facts(keyring.epoch).provider if keyring.partly_rotated() else keyring.provider_kind
        who, ours = writer(self._folder.lock), settings_of(self._keys).get(kind)
        if who is None or not who.providers or who.is_this_process() or who.providers.get(kind) == ours:
            return
        raise ConfigError(
            f"{who} was started without this provider of the new epoch: {ours}; it could open nothing that moves there",
            hint="give both the same [keys], restart the server, then rotate: docs/keys.md, Moving to another provider",
        )

    # Events for the log

    def _rotated(self, done: Rotated) -> WaitingEvent:
        """List everything that still opens an epoch, so that no keyring can lose an opener without the log knowing."""
        keepers = (each for each in self._keyring.keepers() if not each.is_ended)
        event = EpochRotated(
            epoch=done.epoch,
            provider=done.provider,
            moved=done.rewrapped,
            resumed=done.resumed,
            keepers=tuple(each.encode().hex() for each in keepers),
            groups=tuple(each.encode().hex() for each in self._keyring.share_groups()),
            by=self._by.officer,
            command=self._command,
        )
        return self._enclosed(event, clock_ms())

    def _destroyed(self, receipt: Receipt) -> WaitingEvent:
        keeper = receipt.keeper
        event = EpochDestroyed(
            epoch=keeper.epoch,
            provider=keeper.kind,
            keeper=keeper.id.hex(),
            keeper_row=keeper.encode().hex(),
            caveat=receipt.caveat,
            destroyed_ms=keeper.receipt_ms,
            effective_ms=keeper.effective_ms,
            share_groups=self._share_groups(keeper.epoch),
            by=self._by.officer,
            command=self._command,
        )
        return self._enclosed(event, keeper.receipt_ms)

    def _abandoned(self, given_up: Epoch, reason: str, cause: str) -> WaitingEvent:
        event = EpochAbandoned(
            epoch=given_up.number,
            provider=given_up.provider,
            reason=reason,
            cause=cause,
            share_groups=self._share_groups(given_up.number),
            by=self._by.officer,
            command=self._command,
        )
        return self._enclosed(event, clock_ms())

    def _share_groups(self, epoch: int) -> tuple[str, ...]:
        return tuple(of.group.hex() for of in self._keyring.share_groups() if of.epoch == epoch)

    def _enclosed(self, event: Event, time_ms: int) -> WaitingEvent:
        return outbox.enclosed(self._keyring, Occurrence(event, time_ms))
