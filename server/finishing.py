"""Make scheduled shreds effective: move what lives to a new epoch, then destroy the epochs that the shredded keys knew.

Rule: an epoch is destroyed only when somebody has said that keyring and provider were copied since everything moved
away from it: older copies open nothing afterwards. Stopped anywhere, saying it again goes on.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from keys.clock import clock_ms
from keys.errors import InputError, UnavailableError
from keys.rows import EpochState
from server.engine import Engine
from server.erasure import EFFECTIVE, Erasure, erasures
from server.officers import Officer
from server.renewal import Renewal
from server.shredding import wait_until_compacted, wait_until_settled

__all__ = ["Finished", "finish"]


@dataclass(frozen=True, slots=True)
class Finished:
    """What a call did and what is left: keys moved to a new epoch, epochs destroyed now and what else has to be
    destroyed of them, epochs that wait for the copies, every shred with its state, and whether the index was written
    anew since the last epoch ended."""

    moved: int
    destroyed: tuple[int, ...]
    caveats: tuple[str, ...]
    waiting: tuple[int, ...]
    erasures: tuple[Erasure, ...]
    is_index_new: bool = False

    @property
    def effective(self) -> int:
        """How many shreds are effective."""
        return sum(each.state == EFFECTIVE for each in self.erasures)


def finish(
    engine: Engine,
    by: Officer,
    *,
    copied: bool,
    early: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Finished:
    """Do the next part of what makes the due shreds effective; durable on return.

    The first call moves all keys to a new epoch; a later one, with `copied`, destroys the epochs before. Due is what
    backups may not hold any more, with `early` everything. `progress` gets study keys moved and in all. Raises
    UnavailableError while the writer has not recorded the shreds, LockedError while somebody else changes the keys,
    InputError for `copied` before there was anything new to copy, and what the provider raises.
    """
    if not wait_until_settled(engine):
        raise UnavailableError(
            "the process that writes has not finished the last shreds",
            hint="wait for it (coffer shred list) and repeat",
        )
    renewal = Renewal(engine.folder, engine.keyring, engine.config.keys, by, "coffer shred finish")
    with renewal.alone():
        done = _finish(engine, renewal, progress, copied=copied, early=early)
    return replace(done, is_index_new=wait_until_compacted(engine))


def _finish(
    engine: Engine, renewal: Renewal, progress: Callable[[int, int], None], *, copied: bool, early: bool
) -> Finished:
    keyring = engine.keyring
    target = _target(erasures(keyring), early=early)
    moved = 0
    if target >= keyring.epoch or keyring.half_left():
        if copied:
            raise InputError(
                "the keys move to a new epoch first: what you copied is the state before it",
                hint="say coffer shred finish, copy keyring and key file, then say it again with --copied",
            )
        moved = renewal.rotate(progress).rewrapped
    found = keyring.epochs()
    retired = {each.epoch for each in found if each.state is EpochState.RETIRED and each.epoch <= target}
    unfinished = {each.epoch for each in found if each.state is EpochState.DESTROYING}
    due = sorted(unfinished | (retired if copied else set()))
    receipts = [renewal.destroy(epoch) for epoch in due]
    wait_until_settled(engine)
    caveats = [f"epoch {each.epoch}: {each.caveat}" for each in receipts]
    caveats += [
        f"epoch {of.epoch}: collect and burn the {of.count} shares of group {of.group.hex()}: with an old copy of the"
        f" keyring, {of.threshold} of them open what was erased"
        for of in keyring.share_groups()
        if of.epoch in due
    ]
    left = tuple(sorted(retired - {*due}))
    return Finished(moved, tuple(due), tuple(caveats), left, tuple(erasures(keyring)))


def _target(found: list[Erasure], *, early: bool) -> int:
    """The newest epoch that has to go; 0 for none."""
    now = clock_ms()
    due = [each for each in found if each.open_epochs and (early or each.stone.until_ms <= now)]
    return max((each.stone.epoch for each in due), default=0)
