"""Erase studies by destroying their keys: whether it is allowed, and the one transaction that does it.

Rule: what is not allowed is refused before anything changes. What is allowed happens in one transaction of the keyring,
after which no process releases the key. The rest (log, index, the key's row) is the writer's work, in this process or
in the running server: `WritableArchive.reconcile`. Order, and the state after a stop in between: docs/keys.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from coffer.archive.events.officer import Officer
from coffer.archive.events.recorded import Occurrence
from coffer.archive.events.shreds import StudyShredded
from coffer.index.query.parts import Part
from coffer.keys.clock import clock_ms
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.errors import AccessDeniedError
from coffer.keys.keyring import rekey, shred
from coffer.keys.keyring.tombstone import Tombstone
from coffer.keys.mailbox import events
from coffer.keys.values.officer_record import RecordAsRead
from coffer.keys.values.waiting_event import WaitingEvent
from coffer.server.access.action import Action, Resource
from coffer.server.access.operator import require_reason
from coffer.server.access.principal import Principal
from coffer.server.clock.trust import Trust, trust
from coffer.server.engine.archive import KeyAdminArchive
from coffer.server.retention.holds import Holds, today
from coffer.server.retention.rule import require_over
from coffer.server.retention.selection import PartToShred, whole_studies

__all__ = [
    "Authorization",
    "Shredding",
    "wait_until_compacted",
    "wait_until_settled",
]

_DAY_MS: Final = 86_400_000
_SETTLE_SECONDS: Final = 15.0
_COMPACT_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Authorization:
    """Why and by whom: the reason, the officers who agreed (the first one made the request), any request's id."""

    reason: str
    officers: tuple[Officer, ...]
    request: str = ""

    def check(self) -> None:
        """Raise InputError for a reason that is empty or too long."""
        require_reason("a shred", self.reason)


class Shredding:
    """Shreds studies of an archive whose keyring can be changed."""

    def __init__(self, archive: KeyAdminArchive) -> None:
        self._archive = archive
        self._config = archive.config

    def require_allowed(self, selection: Sequence[PartToShred]) -> None:
        """Raise AccessDeniedError, with who and why, if a hold or the retention keeps any of the studies.

        Everything that any part of a study has or had counts, whichever part is to be shredded. Raises
        UnavailableError if the index lacks something that the log has.
        """
        self._archive.require_level()
        studies = whole_studies(self._archive.index, selection)
        Holds(self._archive).require_none(studies)
        clock = trust(self._archive.keyring)
        for parts in studies:
            self._require_over(parts, clock)

    def _require_over(self, parts: Sequence[Part], clock: Trust) -> None:
        years = self._config.retention.years
        require_over(parts, years, today(clock.wall_ms))
        try:
            require_over(parts, years, today(clock.granting_ms))
        except AccessDeniedError as error:
            raise clock.refusal(f"{error}; only a clock in doubt says that it is over") from None

    def shred(
        self, selection: Sequence[PartToShred], authorization: Authorization, done: Sequence[RecordAsRead] = ()
    ) -> list[bytes]:
        """Shred, durable on return; returns the key ids that were not shredded before.

        `done` are records that the same transaction removes, as they were read. From then on no process finds or opens
        the studies. Raises AccessDeniedError, InputError.
        """
        authorization.check()
        acting = Principal.person(authorization.officers[-1].name, authorization.officers[-1].account)
        agreed = Resource.erasure(tuple(each.name for each in authorization.officers))
        self._archive.policy.require(acting, Action.SHRED, agreed)
        names = {key_id: each.name for each in selection for key_id in each.key_ids}
        now = clock_ms()
        until = trust(self._archive.keyring).latest_ms + round(self._config.keys.shred_hold_days * _DAY_MS)

        def event(key: StudyKey, tombstone: Tombstone) -> WaitingEvent:
            part = self._part_with(selection, key.key_id)
            return self._archive.enclosed(_event(key, tombstone, authorization, part))

        fresh = shred.schedule(
            self._archive.keyring,
            names,
            now_ms=now,
            until_ms=until,
            event=event,
            done=done,
            allowed=lambda: self.require_allowed(selection),
        )
        self._archive.index.follow()
        return fresh

    def _part_with(self, selection: Sequence[PartToShred], key_id: bytes) -> PartToShred:
        """Return the part that has this key, also if it is the old or the new key of a part being rekeyed."""
        keyring = self._archive.keyring
        pairs = [{each.old, each.new} for each in rekey.under_way(keyring) if key_id in {each.old, each.new}]
        ids = {key_id}.union(*pairs)
        return next(each for each in selection if ids & {shred.current(keyring, one) for one in each.key_ids})


def _event(key: StudyKey, tombstone: Tombstone, authorization: Authorization, part: PartToShred) -> Occurrence:
    event = StudyShredded(
        study=key.hidden(tombstone.name).hex(),
        epoch=tombstone.epoch,
        scheduled_ms=tombstone.scheduled_ms,
        until_ms=tombstone.until_ms,
        instances=part.instances,
        versions=part.versions,
        other_patients=len(part.others),
        reason=authorization.reason.strip(),
        request=authorization.request or None,
        officers=authorization.officers,
    )
    return Occurrence(event, tombstone.scheduled_ms, key.key_id)


def wait_until_settled(
    archive: KeyAdminArchive,
    seconds: float = _SETTLE_SECONDS,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> bool:
    """Do the writer's part of changes of the keys, or wait for the running writer to do it; returns whether it is done.

    On a full volume it is not done; the next opening of the archive with enough space does it. `progress` gets the
    number of shredded keys that have left the keyring, and of all. Raises CofferError.
    """
    keyring = archive.keyring
    total = len(shred.waiting(keyring))

    def is_done() -> bool:
        left = len(shred.waiting(keyring))
        progress(max(0, total - left), total)
        return not left and not events.waiting(keyring)

    return archive.wait_until(is_done, seconds)


def wait_until_compacted(archive: KeyAdminArchive, seconds: float = _COMPACT_SECONDS) -> bool:
    """Like `wait_until_settled`, for the index, which is rewritten when an epoch has ended."""
    return archive.wait_until(lambda: not shred.uncompacted(archive.keyring), seconds)
