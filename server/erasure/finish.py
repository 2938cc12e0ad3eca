"""Make scheduled shreds effective: move what lives to a new epoch, then destroy the epochs that the shredded keys knew.

Rule: first destroyed, then copied. A copy of what opens an epoch, made while that still holds the secret which is about
to be destroyed, opens every older copy of the keyring; so none is asked for before the last receipt. What gives no
receipt is named, and asked again by the next call. Stopped anywhere, saying it again goes on.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from coffer.keys.clock import clock_ms
from coffer.keys.errors import UnavailableError
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.rows import EpochState
from coffer.server.access.action import Action
from coffer.server.access.principal import Principal
from coffer.server.engine.archive import KeyAdminArchive
from coffer.server.engine.erasure_state import EFFECTIVE, Erasure, erasures
from coffer.server.erasure.shred import wait_until_compacted, wait_until_settled
from coffer.server.keyops.epochs import Renewal

__all__ = ["Finished", "finish", "finish_keys"]


@dataclass(frozen=True, slots=True)
class Finished:
    """What a call did and what is left: keys moved to a new epoch, epochs destroyed now and what else has to be
    destroyed of them, what gave no receipt and why, epochs that are to be destroyed yet, every shred with its state,
    and whether the index was written anew since the last epoch ended."""

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
        """What opens what was shredded yet, each once, in words."""
        return tuple(dict.fromkeys(what for each in self.erasures for what in each.opened_by))


def finish(
    archive: KeyAdminArchive,
    by: Principal,
    *,
    destroy: bool,
    early: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Finished:
    """Do what makes the due shreds effective; durable on return.

    All living keys move to a new epoch, where that was not done yet; with `destroy`, everything that ever opened the
    epochs before is destroyed. Due is what backups may not hold any more, with `early` everything. `progress` gets
    study keys moved and in all. Raises UnavailableError while the writer has not recorded the shreds, LockedError while
    somebody else changes the keys, and what the provider of the new epoch raises.
    """
    archive.policy.require(by, Action.FINISH_SHRED)
    if not wait_until_settled(archive):
        raise UnavailableError(
            "the process that writes has not finished the last shreds",
            hint="wait for it (coffer shred list) and repeat",
        )
    renewal = Renewal(archive.folder, archive.keyring, archive.config.keys, by, "coffer shred finish")
    with renewal.alone():
        done = finish_keys(archive.keyring, renewal, progress, destroy=destroy, early=early)
    if not wait_until_settled(archive):
        return done
    return replace(done, is_index_new=wait_until_compacted(archive))


def finish_keys(
    keyring: Keyring, renewal: Renewal, progress: Callable[[int, int], None], *, destroy: bool, early: bool
) -> Finished:
    """As `finish`, for a keyring whose shreds are recorded, and nobody else changes the keys."""
    target = _target(erasures(keyring), early=early)
    moved = 0
    while keyring.partly_rotated() or target >= keyring.epoch:
        moved += renewal.rotate(progress).rewrapped
    found = keyring.epochs()
    retired = {each.epoch for each in found if each.state is EpochState.RETIRED and each.epoch <= target}
    going = {each.epoch for each in found if each.state is EpochState.DESTROYING}
    back = {*keyring.returned().epochs}
    due = sorted(going | back | (retired if destroy else set()))
    caveats: list[str] = []
    missing: list[str] = []
    for epoch in due:
        ended = renewal.end(epoch)
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


def _target(found: list[Erasure], *, early: bool) -> int:
    """The newest epoch that has to go; 0 for none."""
    now = clock_ms()
    due = [each for each in found if each.open_epochs and (early or each.tombstone.until_ms <= now)]
    return max((each.tombstone.epoch for each in due), default=0)
