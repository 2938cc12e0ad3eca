"""Erase studies by destroying their keys: whether it is allowed, and the one transaction that does it.

Rule: what is not allowed is refused before anything changes; what is allowed happens in one transaction of the keyring,
after which no process gives the key to anybody. The rest (log, index, the key's row) is the writer's, here or in the
process that runs: `WritableArchive.reconcile`. Order and what a stop in between leaves: docs/keys.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from coffer.archive.event import Event
from coffer.archive.format.record import Kind
from coffer.keys.clock import clock_ms
from coffer.keys.keyring import rekey, rows, shred
from coffer.keys.keyring.tombstone import Tombstone
from coffer.server.access.action import Action, Resource
from coffer.server.access.operator import Officer, require_reason
from coffer.server.access.principal import Principal
from coffer.server.engine.archive import KeyAdminArchive
from coffer.server.engine.erasure_state import uncompacted
from coffer.server.retention.holds import Holds, today
from coffer.server.retention.rule import require_over
from coffer.server.retention.selection import Doomed, whole_studies

__all__ = [
    "Deed",
    "Shredding",
    "wait_until_compacted",
    "wait_until_settled",
]

_DAY_MS: Final = 86_400_000
_SETTLE_SECONDS: Final = 15.0
_COMPACT_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Deed:
    """Why and by whom: the reason, the officers who agreed (the first one asked for it), the request's id, if any."""

    reason: str
    officers: tuple[Officer, ...]
    request: str = ""

    def check(self) -> None:
        """Raise InputError for a reason that says nothing, or too much."""
        require_reason("a shred", self.reason)


class Shredding:
    """Shreds studies of an archive whose keyring can be changed."""

    def __init__(self, archive: KeyAdminArchive) -> None:
        self._archive = archive
        self._config = archive.config

    def require_allowed(self, doomed: Sequence[Doomed]) -> None:
        """Raise AccessDeniedError, saying who and why, where a hold or the retention keeps any of the studies.

        What any part of a study has or had counts, whichever part is to go. Raises UnavailableError where the index
        does not have all that the log has.
        """
        self._archive.require_level()
        studies = whole_studies(self._archive.index, doomed)
        Holds(self._archive).require_none(studies)
        for parts in studies:
            require_over(parts, self._config.retention.years, today(clock_ms()))

    def shred(self, doomed: Sequence[Doomed], deed: Deed, done: Sequence[tuple[bytes, bytes]] = ()) -> list[bytes]:
        """Shred, durable on return; returns the key ids that were not shredded before. `done`: rows that go with it.

        From then on no process finds or opens the studies. Raises AccessDeniedError, InputError.
        """
        deed.check()
        acting = Principal.person(deed.officers[-1].name, deed.officers[-1].account)
        agreed = Resource.erasure(tuple(each.name for each in deed.officers))
        self._archive.policy.require(acting, Action.SHRED, agreed)
        names = {key_id: each.name for each in doomed for key_id in each.key_ids}
        now = clock_ms()
        until = now + round(self._config.keys.shred_hold_days * _DAY_MS)

        def event(key_id: bytes, stone: Tombstone) -> tuple[bytes, bytes]:
            return self._archive.enclosed(_event(key_id, stone, deed, self._meant(doomed, key_id)))

        fresh = shred.schedule(
            self._archive.keyring,
            names,
            now_ms=now,
            until_ms=until,
            event=event,
            done=done,
            allowed=lambda: self.require_allowed(doomed),
        )
        self._archive.index.follow()
        return fresh

    def _meant(self, doomed: Sequence[Doomed], key_id: bytes) -> Doomed:
        """Whose key this is, also where it is the last or the next one of a part that is being rekeyed."""
        keyring = self._archive.keyring
        pairs = [{each.old, each.new} for each in rekey.under_way(keyring) if key_id in {each.old, each.new}]
        ids = {key_id}.union(*pairs)
        return next(each for each in doomed if ids & {shred.current(keyring, one) for one in each.key_ids})


def _event(key_id: bytes, stone: Tombstone, deed: Deed, meant: Doomed) -> Event:
    facts = {
        "what": "study shredded",
        "study": stone.name.hex(),
        "epoch": stone.epoch,
        "scheduled_ms": stone.scheduled_ms,
        "until_ms": stone.until_ms,
        "instances": meant.instances,
        "versions": meant.versions,
        "other_patients": len(meant.others),
        "reason": deed.reason.strip(),
        "request": deed.request,
        "officers": [{"officer": each.name, "account": each.account} for each in deed.officers],
    }
    return Event(Kind.SHRED_SCHEDULED, stone.scheduled_ms, facts, key_id)


def wait_until_settled(
    archive: KeyAdminArchive,
    seconds: float = _SETTLE_SECONDS,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> bool:
    """Do what is left to do, or wait for the writer that runs to do it; whether it is done. Raises CofferError.

    On a full volume it is not done, and waits for who opens the archive when there is room. `progress` gets shredded
    keys that have left the keyring, of those that were there.
    """
    keyring = archive.keyring
    total = len(shred.waiting(keyring))

    def is_done() -> bool:
        left = len(shred.waiting(keyring))
        progress(max(0, total - left), total)
        return not left and not keyring.rows(rows.EVENT_PREFIX)

    return archive.wait_until(is_done, seconds)


def wait_until_compacted(archive: KeyAdminArchive, seconds: float = _COMPACT_SECONDS) -> bool:
    """As `wait_until_settled`, for the index that is written anew when an epoch ended."""
    return archive.wait_until(lambda: not uncompacted(archive.keyring), seconds)
