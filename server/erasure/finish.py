"""Make scheduled shreds effective: move living keys to a new epoch, then destroy the epochs that wrapped shredded keys.

Rule: destroy first, back up afterwards. A backup of an opener, made while that still holds the secret which is about to
be destroyed, opens every older copy of the keyring; so no backup is requested before the last receipt. An opener that
gives no receipt is reported and asked again by the next call. After a stop at any point the next call resumes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from coffer.keys.errors import UnavailableError
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.values.epoch import EpochState
from coffer.server.access.action import Action
from coffer.server.access.principal import Principal
from coffer.server.clock.trust import trust
from coffer.server.copies.register import Copy
from coffer.server.engine.archive import KeyAdminArchive
from coffer.server.engine.erasure_state import EFFECTIVE, Erasure, erasures, forget_names
from coffer.server.erasure.shred import wait_until_compacted, wait_until_settled
from coffer.server.keyops.backup_copies import follow_backups
from coffer.server.keyops.epochs import NO_RECEIPT_IN_DOUBT, EpochAdmin

__all__ = ["Finished", "finish", "finish_keys"]


@dataclass(frozen=True, slots=True)
class Finished:
    """What a call did and what is left: keys moved to a new epoch, epochs destroyed now and the caveats of their
    receipts, openers without a receipt and why, epochs still to be destroyed, every shred with its state, and whether
    the index was rewritten since the last epoch ended."""

    moved: int
    destroyed: tuple[int, ...]
    caveats: tuple[str, ...]
    missing: tuple[str, ...]
    waiting: tuple[int, ...]
    erasures: tuple[Erasure, ...]
    is_index_new: bool = False

    @property
    def effective(self) -> int:
        """How many shreds are effective."""
        return sum(each.state == EFFECTIVE for each in self.erasures)

    @property
    def opened_by(self) -> tuple[str, ...]:
        """What still opens shredded keys, each once, in words."""
        return tuple(dict.fromkeys(what for each in self.erasures for what in each.opened_by))

    @property
    def copies(self) -> tuple[tuple[str, Copy], ...]:
        """The registered copies that still have a shredded key, each once, with their ids."""
        return tuple({own: (own, copy) for each in self.erasures for own, copy in each.copies}.values())


def finish(
    archive: KeyAdminArchive,
    by: Principal,
    *,
    destroy: bool,
    early: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Finished:
    """Make the due shreds effective; durable on return.

    All living keys move to a new epoch, unless that was done before; with `destroy`, everything that ever opened the
    earlier epochs is destroyed. A shred is due once no backup may hold its key any more; with `early`, all are due.
    `progress` gets study keys moved and in all. The keyring forgets which studies the effective ones are about. Raises
    UnavailableError while the writer has not recorded the shreds, LockedError while another process changes the keys,
    and the errors of the new epoch's provider.
    """
    archive.policy.require(by, Action.FINISH_SHRED)
    if not wait_until_settled(archive):
        raise UnavailableError(
            "the writer has not finished the last shreds",
            hint="wait for it (coffer shred list), then run the command again",
        )
    follow_backups(archive)
    epochs = EpochAdmin(archive.folder, archive.keyring, archive.config.keys, by, "coffer shred finish")
    with epochs.exclusive():
        done = finish_keys(archive.keyring, epochs, progress, destroy=destroy, early=early)
    if not wait_until_settled(archive):
        return done
    is_index_new = wait_until_compacted(archive)
    forget_names(archive.keyring, archive.index.is_stored)
    return replace(done, is_index_new=is_index_new)


def finish_keys(
    keyring: Keyring, epochs: EpochAdmin, progress: Callable[[int, int], None], *, destroy: bool, early: bool
) -> Finished:
    """Like `finish`, for a keyring whose shreds are recorded and whose lock the caller holds."""
    if destroy:
        trust(keyring).require(NO_RECEIPT_IN_DOUBT)
    target = _due_by(keyring, early=early)
    moved = 0
    while keyring.partly_rotated() or target >= keyring.epoch:
        moved += epochs.rotate(progress).rewrapped
    found = keyring.epochs()
    retired = {each.epoch for each in found if each.state is EpochState.RETIRED and each.epoch <= target}
    going = {each.epoch for each in found if each.state is EpochState.DESTROYING}
    back = {*keyring.returned().epochs}
    due = sorted(going | back | (retired if destroy else set()))
    caveats: list[str] = []
    missing: list[str] = []
    for epoch in due:
        ended = epochs.end(epoch)
        caveats += [f"epoch {epoch}, {each.keeper}: {each.caveat}" for each in ended.receipts]
        missing += [f"epoch {epoch}, {each.keeper}: {each.cause}" for each in ended.missing]
    is_over = {each.epoch for each in keyring.epochs() if each.state is EpochState.DESTROYED}
    left = tuple(sorted(retired - {*due}))
    return Finished(
        moved,
        tuple(epoch for epoch in due if epoch in is_over),
        tuple(caveats),
        tuple(missing),
        left,
        tuple(erasures(keyring)),
    )


def _due_by(keyring: Keyring, *, early: bool) -> int:
    """Return the newest epoch that has to be destroyed; 0 for none. Raises AccessDeniedError if only a clock in doubt
    makes one due."""
    clock, found = trust(keyring), erasures(keyring)
    target = _target(found, clock.granting_ms, early=early)
    if _target(found, clock.wall_ms, early=early) > target:
        raise clock.refusal("only a clock in doubt says that no backup holds the shredded keys any more")
    return target


def _target(found: list[Erasure], now: int, *, early: bool) -> int:
    due = [each for each in found if each.open_epochs and (early or each.tombstone.until_ms <= now)]
    return max((each.tombstone.epoch for each in due), default=0)
