"""Remove what the configured rules no longer keep: snapshots and their pieces, and copies of the keyring.

Rule: the newest copy of the keyring stays, however old it is: nothing else opens the archive after a loss.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from coffer.archive.copies.keyring_copies import KeyringCopies
from coffer.archive.copies.prune import Plan, Pruned, plan, prune
from coffer.archive.copies.retention import Keep
from coffer.archive.copies.shelf import Shelf
from coffer.archive.copies.snapshot import new_id
from coffer.archive.copies.target import Target
from coffer.archive.copies.turns import Turn
from coffer.keys.clock import clock_ms
from coffer.server.backup.copies import copies_made, kept_days
from coffer.server.config.settings import Config

__all__ = ["Pruning"]


@dataclass(frozen=True, slots=True)
class Pruning:
    """A prune of one archive's snapshots at a target, and of its keyring's copies at another (None: leave them)."""

    config: Config
    archive_id: bytes
    target: Target
    keys: Target | None
    now_ms: Callable[[], int] = clock_ms

    @property
    def _keep(self) -> Keep:
        rules = self.config.backup
        return Keep(rules.keep_last, rules.keep_daily, rules.keep_weekly, rules.keep_monthly)

    def plan(self) -> tuple[Plan, tuple[str, ...]]:
        """What would stay and go, and the copies of the keyring that would go. Raises as `prune.plan`."""
        shelf = Shelf(self.target, self.archive_id)
        return plan(shelf.snapshots(), self._keep, self.config.backup.minimum), self._over()

    def run(self) -> tuple[Pruned, tuple[str, ...]]:
        """Remove it; durable on return. Raises LockedError while a backup runs, and as `archive.copies.prune.prune`."""
        shelf = Shelf(self.target, self.archive_id)
        own = new_id(time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.now_ms() / 1000)), os.urandom(6))
        with Turn(shelf, "prune", own) as turn:
            done = prune(shelf, self._keep, self.config.backup.minimum, turn)
            old = self._over()
            for each in old:
                assert self.keys is not None
                KeyringCopies(Shelf(self.keys, self.archive_id)).remove(each)
                turn.keep()
        return done, old

    def _over(self) -> tuple[str, ...]:
        """The copies of the keyring whose days are over. One that a run is still writing is younger than any."""
        if self.keys is None:
            return ()
        made = copies_made([self.keys], self.archive_id, kept_days(self.config))
        newest = max((each.id for each in made if each.held.records), default="")
        return tuple(each.id for each in made if each.until_ms <= self.now_ms() and each.id != newest)
