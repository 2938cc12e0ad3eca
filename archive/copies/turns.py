"""Who works at a target now: a backup and a removal of old pieces never do at the same time.

Rule: no conditional write and no clock of a host. Each writes its own flag first and then looks for the other kind's:
of two that begin together, at least one sees the other and gives way. How old a flag is, is the difference between two
times of the target. A flag that nobody renewed for `LEASE_MS` counts for nothing; its holder stops before that.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Self

from coffer.archive.copies.shelf import Shelf
from coffer.keys.clock import boot_seconds
from coffer.keys.errors import CofferError, LockedError, UnavailableError

__all__ = ["LEASE_MS", "Turn"]

LEASE_MS: Final = 2 * 3600 * 1000
_RENEW: Final = LEASE_MS / 4000  # seconds
_LOST: Final = LEASE_MS / 2000


class Turn:
    """A flag at a target from `__enter__` to `__exit__`. `kind` is `run` or `prune`; those of one kind may overlap
    where they are runs. `look` gives seconds that go on while the machine sleeps."""

    def __init__(self, shelf: Shelf, kind: str, own: str, look: Callable[[], float] = boot_seconds) -> None:
        self._shelf = shelf
        self._kind = kind
        self.own = own
        self.began_ms = 0  # by the target's clock
        self._name = shelf.under(f"turns/{kind}-{own}")
        self._look = look
        self._renewed = look()

    def __enter__(self) -> Self:
        """Raises LockedError if the other kind, or another prune, is at work; then nothing was left behind."""
        self._put()
        try:
            other = self._other()
        except BaseException:
            self._drop()
            raise
        if other:
            self._drop()
            raise LockedError(
                f"{other} works at {self._shelf.target.name}",
                hint="try again when it has ended; if it was stopped by force, wait two hours, or remove its file "
                f"from the target: {other}",
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def keep(self) -> None:
        """Renew the flag if it is time. Raises UnavailableError if it was not renewed for so long that others may no
        longer respect it: then nothing more may be written or removed under it."""
        passed = self._look() - self._renewed
        if passed > _LOST:
            raise UnavailableError("the work at the target was interrupted for too long", hint="run the command again")
        if passed > _RENEW:
            self._put()

    def _put(self) -> None:
        before = self._look()
        self._shelf.target.put(self._name, json.dumps({"kind": self._kind}).encode())
        self._renewed = before

    def _drop(self) -> None:
        with suppress(CofferError):  # it ends by itself
            self._shelf.target.remove(self._name)

    def _other(self) -> str:
        """The name of a flag that counts against this one, or nothing."""
        flags = {each.name: each.stored_ms for each in self._shelf.target.list(self._shelf.under("turns/"))}
        if self._name not in flags:
            raise UnavailableError(
                f"{self._shelf.target.name} does not list what was just stored there",
                hint="use a target whose listings are consistent",
            )
        self.began_ms = now = flags.pop(self._name)
        against = ("prune-",) if self._kind == "run" else ("prune-", "run-")
        prefixes = tuple(self._shelf.under(f"turns/{kind}") for kind in against)
        return next((n for n, at in flags.items() if n.startswith(prefixes) and now - at < LEASE_MS), "")
