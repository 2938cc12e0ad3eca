"""Change the register of copies: add a copy that somebody made, and report one that was destroyed.

Rule: each change is an event of the log, written in the same transaction. What a person states is recorded with the
name, and never checked: Coffer cannot see a copy in a safe.
"""

import datetime as dt
from typing import Final, Literal

from coffer.archive.events.recorded import Occurrence
from coffer.archive.events.shares import CopyGone, CopyRegistered
from coffer.keys.clock import clock_ms
from coffer.keys.errors import InputError, NotFoundError
from coffer.keys.mailbox.officer_records import OfficerRecordAdmin
from coffer.keys.values.officer_record import RecordKind
from coffer.server.access.action import Action
from coffer.server.access.principal import Principal
from coffer.server.backup.copies import MadeCopy
from coffer.server.copies.register import Copy
from coffer.server.engine.archive import KeyAdminArchive
from coffer.server.retention.holds import LAST_ZONE

__all__ = ["CopyRegister", "end_of"]

_LONGEST: Final = 500


def end_of(day: dt.date) -> int:
    """Return when a day is over everywhere on earth (ms since 1970 UTC)."""
    after = dt.datetime.combine(day + dt.timedelta(days=1), dt.time(), LAST_ZONE)
    return int(after.timestamp() * 1000)


class CopyRegister:
    """The register of an archive whose keyring may be changed."""

    def __init__(self, archive: KeyAdminArchive) -> None:
        self._archive = archive
        self._keyring = archive.keyring
        self._admin = OfficerRecordAdmin(archive.keyring, RecordKind.COPY, Copy)

    def add(
        self,
        of: Literal["keyring", "provider"],
        place: str,
        until_ms: int,
        by: Principal,
        *,
        epoch: int | None = None,
    ) -> tuple[str, Copy]:
        """Register a copy, durable on return; returns it with its id.

        Without `epoch` the copy is taken to be of this moment; with it, of a time when that epoch was the newest, so
        that it has every key that ever was under this epoch or an earlier one. Raises InputError for no place and for
        an epoch that never existed.
        """
        self._archive.policy.require(by, Action.REGISTER_COPY)
        place, current = place.strip(), self._keyring.epoch
        if not place or len(place) > _LONGEST or not place.isprintable():
            raise InputError(
                f"a copy needs a place, in at most {_LONGEST} printable characters",
                hint="say where it is, for example: --to 'safe in room 12'",
            )
        if epoch is not None and not 0 < epoch <= current:
            raise InputError(f"the archive has epochs 1 to {current}", hint="coffer keys list shows them")
        feed = self._keyring.changes() if epoch is None else 0
        made = Copy(of, place, until_ms, current if epoch is None else epoch, feed, by.officer, clock_ms())
        return self._put(made), made

    def add_backup(self, found: MadeCopy, by: Principal) -> None:
        """Register the copy of the keyring that a backup made, durable on return. It counts until it is gone."""
        self._archive.policy.require(by, Action.REGISTER_COPY)
        held = found.held
        self._put(
            Copy("keyring", found.place, found.until_ms, held.epoch, held.feed, by.officer, clock_ms(), backup=found.id)
        )

    def _put(self, made: Copy) -> str:
        def event(new: str) -> Occurrence:
            told = CopyRegistered(
                copy=new,
                of=made.of,
                place=made.place,
                newest=made.epoch,
                feed=made.feed,
                ends_ms=None if made.backup else made.until_ms or None,
                by=made.by,
            )
            return Occurrence(told, made.added_ms)

        return self._admin.add(made, lambda new: self._archive.enclosed(event(new)))

    def report_gone(self, copy_id: str, reason: str, by: Principal) -> Copy:
        """Take a copy from the register because it was destroyed, durable on return. Raises NotFoundError, and
        InputError without a reason."""
        self._archive.policy.require(by, Action.REGISTER_COPY)
        if not reason.strip():
            raise InputError(
                "it has to be said how the copy was destroyed", hint="use --reason TEXT; it is kept for good"
            )
        copy, before = self._admin.get(copy_id)
        gone = CopyGone(
            copy=copy_id, of=copy.of, place=copy.place, newest=copy.epoch, by=by.officer, reason=reason.strip()
        )
        if not self._admin.remove(before, self._archive.enclosed(Occurrence(gone, clock_ms()))):
            raise NotFoundError(f"there is no copy {copy_id} (any more)", hint="coffer keys copies shows them")
        return copy
